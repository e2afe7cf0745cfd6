"""Patterns that are compiled when they are first used."""

import pickle
import re
import threading

import pytest

from store.pattern import Pattern


def test_a_pattern_does_what_the_compiled_one_does() -> None:
    """Each method, the first time and later; flags count; what it does not have is an AttributeError."""
    lazy, compiled = Pattern("a(B+)", re.IGNORECASE), re.compile("a(B+)", re.IGNORECASE)
    text = "ab xABb b"
    for _ in range(2):
        assert lazy.findall(text) == compiled.findall(text) == ["b", "Bb"]
        assert [m.span() for m in lazy.finditer(text, 1)] == [(4, 7)]
        assert lazy.match(text).span(1) == (1, 2)
        assert lazy.match("b") is None
        assert lazy.search(text, 2).group() == "ABb"
        assert lazy.sub("-", text) == "- x- b"
    with pytest.raises(AttributeError):
        lazy.split("a")  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(Pattern("a"))).match("a")


def test_threads_may_use_a_new_pattern_at_once() -> None:
    """Whoever compiles it, all get the same."""
    for _ in range(20):
        pattern, begin, found = Pattern(f"x{_}"), threading.Barrier(4), []

        def look(pattern=pattern, begin=begin, found=found) -> None:
            begin.wait()
            found.append(pattern.match("x1") is not None)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1
