"""Tables and their forks: a fork is the dict that its original would have become, and leaves it alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_master.core.table import Table

keys = st.integers(0, 6)
steps = st.lists(
    st.tuples(st.sampled_from(["set", "delete", "fork", "pop"]), keys, st.integers()), max_size=25
)


@given(base=st.dictionaries(keys, st.integers()), steps=steps)
def test_a_fork_is_what_the_dict_would_have_become(
    base: dict[int, int], steps: list[tuple[str, int, int]]
) -> None:
    original: Table[int, int] = Table()
    original.update(base)
    expected = dict(original)
    fork = original.fork()
    older = []
    for what, key, value in steps:
        match what:
            case "set":
                fork[key] = expected[key] = value
            case "delete" if key in expected:
                del fork[key], expected[key]
            case "pop":
                assert fork.pop(key, None) == expected.pop(key, None)
            case "fork":
                older.append((fork, list(expected.items())))
                fork = fork.fork()
            case _:
                with pytest.raises(KeyError):
                    del fork[key]
        # Order, length and membership too: deciders iterate.
        assert list(fork.items()) == list(expected.items())
        assert len(fork) == len(expected)
        assert [key for key in range(7) if key in fork] == sorted(expected)
        assert [fork.get(key) for key in range(7)] == [expected.get(key) for key in range(7)]
    assert list(original.items()) == list(base.items())
    for fork, items in older:
        assert list(fork.items()) == items


def test_a_key_that_comes_back_comes_last_as_in_a_dict() -> None:
    table: Table[str, int] = Table()
    table.update({"a": 1, "b": 2})
    fork = table.fork()
    del fork["a"]
    fork["a"] = 3
    assert list(fork) == ["b", "a"]
    assert list(fork.fork()) == ["b", "a"]
    del fork["a"]
    assert list(fork) == ["b"]


def test_a_fork_has_what_its_original_had_when_it_was_filled_later() -> None:
    table: Table[str, int] = Table()
    table["a"] = 1
    fork = table.fork()
    assert len(fork) == 1
    del fork["a"]
    assert (len(fork), len(table)) == (0, 1)


def test_what_is_not_there_is_a_key_error() -> None:
    table: Table[str, int] = Table()
    table["a"] = 1
    fork = table.fork()
    del fork["a"]
    for each in ("a", "b"):
        with pytest.raises(KeyError):
            fork[each]
