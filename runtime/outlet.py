"""Where the log goes out: whoever writes never waits for whoever reads.

A pipe whose reader has stopped, a full disk or a closed descriptor must not stop a daemon that has something to say.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable

LIMIT_BYTES = 1 << 20


class Outlet:
    """A text stream onto a file descriptor, written by a thread of its own.

    What does not fit beside `limit_bytes` that still wait is lost, and so is what cannot be written. Once writing works
    again, the number of lost lines is told.

    Args:
        descriptor: to write to; None writes nowhere.
        lost: makes the line that tells of so many lost ones.
    """

    def __init__(self, descriptor: int | None, lost: Callable[[int], str], *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._descriptor = descriptor
        self._tell_lost = lost
        self._limit_bytes = limit_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._busy = self._closed = self._torn = False
        self._changed = threading.Condition()
        if descriptor is not None:
            threading.Thread(target=self._loop, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Takes `text` to write it soon; a line is either written whole or lost."""
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._descriptor is None or self._closed:
                return len(text)
            if self._waiting_bytes + len(data) > self._limit_bytes:
                self._lost += 1
            else:
                self._waiting.append(data)
                self._waiting_bytes += len(data)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Does nothing: it would have to wait."""

    def isatty(self) -> bool:
        return self._descriptor is not None and os.isatty(self._descriptor)

    def close(self, timeout_s: float) -> bool:
        """Takes no more, and waits that long for what was taken; whether all of it is written."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not (self._waiting or self._busy), timeout_s)

    def _loop(self) -> None:
        while (data := self._next()) is not None:
            written = self._write(data)
            with self._changed:
                self._busy = False
                if not written:
                    self._lost += 1
                elif self._lost:
                    line = self._tell_lost(self._lost).encode("utf-8", "backslashreplace")
                    self._waiting.appendleft(line)
                    self._waiting_bytes += len(line)
                    self._lost = 0
                self._changed.notify_all()

    def _next(self) -> bytes | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return None
            data = self._waiting.popleft()
            self._waiting_bytes -= len(data)
            self._busy = True
            return data

    def _write(self, data: bytes) -> bool:
        """To the descriptor itself: a stream's lock, held by a write that waits, would keep the process from ending."""
        assert self._descriptor is not None
        if self._torn:
            data = b"\n" + data
        left = data
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:
            self._torn = self._torn or len(left) < len(data)
            return False
        self._torn = False
        return True
