"""The prompt with prompt_toolkit: colours, matching brackets, indentation, completion and a history that is kept.

Enter runs an entry when nothing is open in it, else it begins a line, indented; Alt-Enter always begins a line. What the
text means is no matter of this module: it asks `scan` and `words`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import Completer, Completion, ThreadedCompleter
from prompt_toolkit.filters import Condition, completion_is_selected
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout.processors import HighlightMatchingBracketProcessor
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.styles import Style

from datalog.parser import SECTIONS
from shell.scan import indent_of, is_complete, tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.formatted_text import StyleAndTextTuples
    from prompt_toolkit.history import History

    from shell.session import Session
    from shell.words import Words

__all__ = ["EdnLexer", "Prompt", "WordCompleter", "history_file"]

_STYLE: Final = Style.from_dict(
    {
        "prompt": "bold ansicyan",
        "keyword": "ansimagenta",
        "section": "bold ansimagenta",
        "variable": "ansigreen",
        "string": "ansiyellow",
        "number": "ansibrightblue",
        "comment": "italic ansibrightblack",
        "function": "ansicyan",
        "command": "bold ansicyan",
        "error": "ansired",
        "matching-bracket.cursor": "bold reverse",
        "matching-bracket.other": "bold underline",
    }
)
_CLASS: Final = {
    "keyword": "class:keyword",
    "variable": "class:variable",
    "string": "class:string",
    "char": "class:string",
    "number": "class:number",
    "comment": "class:comment",
}
_SECTIONS: Final = frozenset(f":{name}" for name in SECTIONS)


def history_file() -> Path | None:
    """Where entries are kept between sessions; None when the directory cannot be made."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    directory = Path(base).expanduser() / "datalog"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = directory / "shell_history"
        file.touch(mode=0o600)
    except OSError:
        return None
    return file


class EdnLexer(Lexer):
    """Colours by token; the head of a list is a function, a bracket that closes nothing is an error."""

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        """The coloured fragments of each line."""
        lines: list[StyleAndTextTuples] = [[]]
        after_paren = False
        depth = 0
        is_command = document.text.startswith(".")
        for token in tokens(document.text):
            style = _CLASS.get(token.kind, "")
            if token.text in _SECTIONS:
                style = "class:section"
            elif token.kind == "symbol" and after_paren:
                style = "class:function"
            elif token.start == 0 and is_command:
                style = "class:command"
            elif token.kind == "open":
                depth += 1
            elif token.kind == "close":
                depth -= 1
                style = "class:error" if depth < 0 else ""
            if token.kind != "space":
                after_paren = token.text == "("
            first, *rest = token.text.split("\n")
            lines[-1].append((style, first))
            lines.extend([(style, part)] for part in rest)
        return lambda number: lines[number] if number < len(lines) else []


class WordCompleter(Completer):
    """The candidates of `Words`, with their kind beside them."""

    def __init__(self, words: Callable[[], Words]) -> None:
        self._words = words

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Candidates for the word at the cursor."""
        del complete_event
        before = document.text_before_cursor
        found = self._words().complete(before, document.text_after_cursor)
        for candidate in found:
            if candidate.length:
                yield Completion(candidate.text, -candidate.length, display_meta=candidate.kind)


def _bindings() -> KeyBindings:
    keys = KeyBindings()

    @Condition
    def nothing_chosen() -> bool:
        return not completion_is_selected()

    @keys.add("enter", filter=nothing_chosen)
    def _(event: Any) -> None:
        """Run the entry, or go on in a line indented below what is open."""
        buffer = event.current_buffer
        text = buffer.document.text
        if is_complete(text) and not buffer.document.text_after_cursor.strip():
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n" + " " * indent_of(buffer.document.text_before_cursor))

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        """A new line, whatever is open."""
        buffer = event.current_buffer
        buffer.insert_text("\n" + " " * indent_of(buffer.document.text_before_cursor))

    return keys


class Prompt:
    """Reads entries for a session."""

    def __init__(self, session: Session, **more: Any) -> None:
        self._session = session
        file = history_file()
        history: History = InMemoryHistory() if file is None else FileHistory(str(file))
        self._prompt: PromptSession[str] = PromptSession(
            history=history,
            lexer=EdnLexer(),
            completer=ThreadedCompleter(WordCompleter(session.words)),
            complete_while_typing=False,
            auto_suggest=AutoSuggestFromHistory(),
            key_bindings=_bindings(),
            style=_STYLE,
            multiline=True,
            input_processors=[HighlightMatchingBracketProcessor(chars="[](){}")],
            prompt_continuation=_continuation,
            enable_history_search=False,
            **more,
        )

    def read(self) -> str:
        """What was typed; raises KeyboardInterrupt for Ctrl-C, EOFError for Ctrl-D."""
        return self._prompt.prompt([("class:prompt", self._session.prompt())])


def _continuation(width: int, _number: int, wrapped: int) -> str:
    """Dots before each further line; blanks where a line goes on because it is too long."""
    return " " * width if wrapped else "." * (width - 1) + " "
