"""Stop strings: found at the same place however the text is cut, and no more held back than must be."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from runtime.engine.stop import StopMatcher

STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=4)
PIECES = st.lists(st.text(alphabet="abc", max_size=6), max_size=12)


def searched(text: str, stops: list[str]) -> tuple[str, str | None]:
    """By the definition: the text up to the stop string that is complete first; of several, the longest."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text.endswith(stop, 0, end)]
        if complete:
            stop = max(complete, key=len)
            return text[: end - len(stop)], stop
    return text, None


def streamed(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher, out = StopMatcher(tuple(stops)), ""
    for piece in pieces:
        text, found = matcher.push(piece)
        out += text
        if found is not None:
            return out, found
    return out + matcher.flush(), None


@given(PIECES, STOPS)
@example(["abcd"], ["abcd", "bc"])
@example(["a", "b", "c", "d"], ["abcd", "bc"])
@example(["aabaabaac"], ["aabaac"])
def test_any_split_gives_what_a_search_of_the_whole_does(pieces: list[str], stops: list[str]) -> None:
    """The text before the stop string, and which one it is, do not depend on how the text arrives."""
    text = "".join(pieces)
    expected = searched(text, stops)
    assert streamed(pieces, stops) == expected
    assert streamed([text], stops) == expected
    assert streamed(list(text), stops) == expected


@given(PIECES, STOPS)
def test_only_the_start_of_a_stop_string_is_held_back(pieces: list[str], stops: list[str]) -> None:
    """What came in and is not out yet is always the start of a stop string, and the longest such end."""
    matcher, read, out = StopMatcher(tuple(stops)), "", ""
    for piece in pieces:
        text, found = matcher.push(piece)
        read, out = read + piece, out + text
        if found is not None:
            return
        ends = [read[at:] for at in range(len(read))]
        expected = [end for end in ends if any(stop.startswith(end) for stop in stops)]
        assert read == out + (expected[0] if expected else "")


def test_without_stop_strings_all_comes_at_once() -> None:
    """Nothing is held back that nothing can follow."""
    matcher = StopMatcher(())
    assert matcher.push("anything") == ("anything", None)
    assert matcher.flush() == ""


def test_what_follows_a_stop_string_is_gone() -> None:
    """After a find nothing is left to flush."""
    matcher = StopMatcher(("END",))
    assert matcher.push("a END b EN") == ("a ", "END")
    assert matcher.flush() == ""


def test_a_flush_gives_what_was_held_only_once() -> None:
    """The start of a stop string that the text ends with is text."""
    matcher = StopMatcher(("END",))
    assert matcher.push("the EN") == ("the ", None)
    assert (matcher.flush(), matcher.flush()) == ("EN", "")
