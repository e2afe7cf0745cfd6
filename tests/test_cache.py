"""The cache of columns: its bound, and what goes first."""

from store.cache import ColumnCache


def test_the_least_recently_used_go_first():
    """The bound holds, what was asked for last stays, and what is too large is not taken."""
    cache = ColumnCache(100)
    for key in "abcd":
        cache.put(key, key.upper(), 25)
    assert cache.get("a") == "A"
    cache.put("e", "E", 20)
    assert [cache.get(key) for key in "abcde"] == ["A", None, "C", "D", "E"]
    cache.put("f", "F", 26)
    assert cache.get("f") is None
    cache.put("e", "e", 1)
    assert cache.size_bytes == 76
