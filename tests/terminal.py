"""A terminal without a window: a program under a pseudo-terminal, its screen kept by pyte. For tests and for pictures."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pyte

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
PATIENCE_S = 30.0  # before a test gives up: no claim about speed


class Terminal:
    """A child process at a terminal of `columns` by `lines`; `screen` is what it shows, `log` all that it wrote."""

    def __init__(
        self,
        arguments: list[str],
        columns: int = 90,
        lines: int = 26,
        env: dict[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.log = b""
        self.status: int | None = None
        self.pid, self._fd = os.forkpty()
        if self.pid == 0:  # pragma: no cover - the child
            os.chdir(folder)
            full = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **(env or {})}
            full.pop("NO_COLOR", None)
            os.execve(sys.executable, [sys.executable, *arguments], full)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds: float = 0.05) -> bool:
        """Take in what the child writes within some time; False when it is over."""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            data = b""
        if not data:
            return False
        self.log += data
        self._stream.feed(data)
        return True

    def type(self, text: str) -> None:
        """Press keys: text, tabs, returns and control characters."""
        os.write(self._fd, text.encode())

    def text(self) -> str:
        """The screen as lines without trailing blanks."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def wait_for(self, wanted: str, *, times: int = 1) -> str:
        """Read until the screen shows a text so many times; returns the screen."""
        return self._read_until(wanted, lambda text: text.count(wanted) >= times)

    def wait_for_end(self, wanted: str) -> str:
        """Read until the screen ends with a text, such as a prompt where nothing is typed yet."""
        return self._read_until(wanted, lambda text: text.endswith(wanted))

    def _read_until(self, wanted: str, shown: Callable[[str], bool]) -> str:
        end = time.monotonic() + PATIENCE_S
        alive = True
        while not shown(self.text()):
            assert alive, f"the program ended before {wanted!r}:\n{self.text()}"
            assert time.monotonic() < end, f"waited in vain for {wanted!r}:\n{self.text()}"
            alive = self.read()
        return self.text()

    def enter(self, text: str, wanted: str, *, times: int = 1) -> str:
        """Type a line with Enter, and wait for a text on the screen."""
        self.type(text + "\r")
        return self.wait_for(wanted, times=times)

    def ended(self) -> int:
        """Read to the end; the exit code."""
        end = time.monotonic() + PATIENCE_S
        while self.read():
            assert time.monotonic() < end, f"the program does not end:\n{self.text()}"
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def close(self) -> None:
        """End the child if it still runs."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
