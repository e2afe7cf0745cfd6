"""Commands to a memory that another process has open: requests and answers as files in a folder beside the memory file.

The process that has the memory open looks into `<memory>.commands/` every tenth of a second (`Serving`), carries each request
out in a thread of its own, and writes the answer. Files, because they need no port and no library, survive a restart of either
side as what they are, and are kept apart from others by the folder's mode, 0700. Every file is written under another name first.

    <id>.request    {"command": name, "arguments": {...}}        by the sender
    <id>.taken      the request, taken up
    <id>.progress   [step, done, of]                             while it runs
    <id>.answer     {"ok": {...}} or {"error": {"family", "code", "message", "expected", "hint", "data"}}
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final, cast

import orjson

from migration.files import replace_file, storage_error
from store.errors import DatalogError, StorageError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from migration.memory import MemoryStore
    from migration.memory_core import MemoryCore

__all__ = ["Serving", "ask_to_share", "send"]

_EVERY_S: Final = 0.1
_TAKEN_UP_S: Final = 10.0  # a process that has not taken up a request by then does not serve


def _folder(memory_file: Path) -> Path:
    return memory_file.with_name(f"{memory_file.name}.commands")


def _write(path: Path, data: Any) -> None:
    replace_file(path, [orjson.dumps(data, default=str, option=orjson.OPT_NON_STR_KEYS)], mode=0o600)


class Serving:
    """Carries out what other processes ask for; one of the keeper's tasks."""

    def __init__(self, memory: MemoryCore) -> None:
        self._memory = memory
        self._folder = _folder(memory.file)
        self._next = 0.0
        self._threads: list[threading.Thread] = []
        with contextlib.suppress(OSError):  # a directory that cannot be written takes no commands
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if (
                memory.edn is not None
            ):  # then no other process serves this folder: what is there is of one that was killed
                for left in self._folder.iterdir():
                    left.unlink()

    def close(self) -> None:
        """Waits for what is being carried out; nothing more is taken up."""
        self._next = float("inf")
        for thread in self._threads:
            thread.join()

    def __call__(self) -> bool:
        """Looks for requests now and then; True when some are being carried out."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _EVERY_S
        try:
            requests = list(self._folder.glob("*.request"))
        except OSError:
            return False
        for request in requests:
            taken = request.with_suffix(".taken")
            try:
                request.rename(taken)  # of several processes one gets it
            except OSError:
                continue
            thread = threading.Thread(target=self._serve, args=(taken,), name=request.name, daemon=True)
            self._threads = [*(t for t in self._threads if t.is_alive()), thread]
            thread.start()
        return bool(requests)

    def _serve(self, request: Path) -> None:
        from migration.operations import carry_out  # noqa: PLC0415 - an application may never be sent a command

        told = [0.0]

        def progress(step: str, done: int, of: int) -> None:
            if time.monotonic() - told[0] > _EVERY_S:
                told[0] = time.monotonic()
                with contextlib.suppress(OSError):
                    _write(request.with_suffix(".progress"), [step, done, of])

        progress("taken up", 0, 0)
        try:
            asked = json.loads(request.read_bytes())
            memory = cast("MemoryStore", self._memory)
            answer: dict[str, Any] = {"ok": carry_out(memory, asked["command"], asked["arguments"], progress)}
        except DatalogError as e:
            family = "storage" if isinstance(e, StorageError) else "user" if isinstance(e, UserError) else "internal"
            said = {"message": e.message, "expected": e.expected, "hint": e.hint, "data": dict(e.data)}
            answer = {"error": {"family": family, "code": e.code, **said}}
        except Exception as e:  # noqa: BLE001 - whatever it was, who asked has to be told
            text = f"The request cannot be carried out: {type(e).__name__}: {e}."
            answer = {"error": {"family": "user", "code": "memory/command", "message": text, "data": {}}}
        with contextlib.suppress(OSError):
            _write(request.with_suffix(".answer"), answer)
            request.unlink(missing_ok=True)


def send(
    memory_file: Path, command: str, arguments: Mapping[str, Any], progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Sends a command to the process that has a memory open, and returns the data of its answer.

    Raises:
        UserError, StorageError: what the command raised there. StorageError: `memory/no-answer` when nobody takes it up.
    """
    folder = _folder(memory_file)
    request = folder / f"{uuid.uuid4().hex}.request"
    if not folder.is_dir():
        raise _no_answer(memory_file)
    try:
        _write(request, {"command": command, "arguments": dict(arguments)})
    except OSError as e:
        raise storage_error(e, folder, "Sending the command") from e
    began, answer, told = time.monotonic(), request.with_suffix(".answer"), request.with_suffix(".progress")
    try:
        while not answer.exists():
            if told.exists():
                with contextlib.suppress(OSError, ValueError):
                    progress(*json.loads(told.read_bytes()))
            elif time.monotonic() - began > _TAKEN_UP_S:
                raise _no_answer(memory_file)
            time.sleep(_EVERY_S / 4)
        found: dict[str, Any] = json.loads(answer.read_bytes())
    finally:
        for path in (request, request.with_suffix(".taken"), answer, told):
            path.unlink(missing_ok=True)
    error = found.get("error")
    if error is None:
        result: dict[str, Any] = found["ok"]
        return result
    kind = StorageError if error["family"] == "storage" else UserError
    raise kind(
        error["code"], error["message"], expected=error.get("expected"), hint=error.get("hint"), data=error["data"]
    )


def ask_to_share(memory_file: Path) -> None:
    """Asks the process that has a memory alone to let others in; returns when it has answered, whatever it said."""
    with contextlib.suppress(StorageError, UserError):
        send(memory_file, "share", {}, lambda _s, _d, _o: None)


def _no_answer(memory_file: Path) -> StorageError:
    return StorageError(
        "memory/no-answer",
        "Another process has the memory open and takes no commands.",
        hint="close it there, or open it with commands=True (the default) and try again.",
        file=str(memory_file),
    )
