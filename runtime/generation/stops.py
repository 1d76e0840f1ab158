"""Stop strings in a text that comes piece by piece."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Finds the first stop string in a text that comes in pieces, however the text is split into them.

    The first stop string is the one that is complete first; of several that end at the same character, the longest.
    The text ends before it.

    Args:
        stops: the stop strings, none of them empty; without any, every text is let through.

    Attributes:
        found: the stop string that has occurred; None so far.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.found: str | None = None
        self._automata = [_Matcher(stop) for stop in sorted(set(stops), key=len, reverse=True)]
        self._length = 0
        self._held = ""

    @property
    def held(self) -> str:
        """The end of the text that may be the beginning of a stop string, and must not be shown yet."""
        return self._held

    @property
    def length(self) -> int:
        """How many characters the text has so far; if a stop string has occurred, how many it has before it."""
        return self._length

    def feed(self, piece: str) -> str:
        """Take up the next piece of the text.

        Args:
            piece: what follows the text so far. It must not change later: a character of which bytes are missing is
                no part of it yet. After a stop string has occurred, it is ignored.

        Returns:
            The characters that can be shown now, which follow all those returned before.
        """
        if self.found is not None:
            return ""
        if not self._automata:
            self._length += len(piece)
            return piece
        pending = self._held + piece
        for count, character in enumerate(piece, 1):
            ended = [matcher for matcher in self._automata if matcher.take(character)]
            if ended:
                self.found, self._held = ended[0].stop, ""
                self._length += count - len(self.found)
                return pending[: len(pending) - len(piece) + count - len(self.found)]
        self._length += len(piece)
        held = max((matcher.matched for matcher in self._automata), default=0)
        self._held = pending[len(pending) - held :]
        return pending[: len(pending) - held]

    def finish(self) -> str:
        """The characters that were held back, to be shown when the text has ended otherwise."""
        held, self._held = self._held, ""
        return held


class _Matcher:
    """Follows one stop string by the algorithm of Knuth, Morris and Pratt.

    Attributes:
        stop: the stop string.
        matched: how many characters of its beginning the text ends with.
    """

    def __init__(self, stop: str) -> None:
        self.stop, self.matched = stop, 0
        # borders[n]: the length of the longest beginning of stop[:n], shorter than n, with which stop[:n] ends.
        self._borders = [0, 0]
        for end in range(1, len(stop)):
            self._borders.append(self._after(self._borders[end], stop[end]))

    def take(self, character: str) -> bool:
        """Follow the text by one character; returns whether the stop string has occurred with it."""
        self.matched = self._after(self.matched, character)
        return self.matched == len(self.stop)

    def _after(self, matched: int, character: str) -> int:
        while matched and self.stop[matched] != character:
            matched = self._borders[matched]
        return matched + 1 if self.stop[matched] == character else 0
