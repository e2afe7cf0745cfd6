"""The plain prompt: `input`, with the line editing of the terminal. An entry goes on until nothing is open."""

from __future__ import annotations

from shell.scan import is_complete

__all__ = ["read_entry"]


def read_entry(prompt: str) -> str:
    """What was typed, line after line until brackets and strings are closed; raises EOFError at the end of the input."""
    text = input(prompt)
    while not is_complete(text):
        text += "\n" + input("." * (len(prompt) - 1) + " ")
    return text
