"""How often callers got an error for an answer, by what they called and the status they got. For any thread."""

from __future__ import annotations

import threading
from collections import Counter

from .methods import NEEDS

OTHER = "(other)"
"""Stands for every method that the daemon does not have: what callers make up is no label of a metric."""


class CallErrors:
    """Counts each call that ends with an error, and each request of a batch or a stream whose answer is one."""

    def __init__(self) -> None:
        self._totals: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, method: str, code: str) -> None:
        """One more. `method` is as `methods.NEEDS` has it, `code` the name of a gRPC status, also for HTTP."""
        with self._lock:
            self._totals[method if method in NEEDS else OTHER, code] += 1

    def totals(self) -> dict[tuple[str, str], int]:
        """Since the start, by method and code, sorted."""
        with self._lock:
            return dict(sorted(self._totals.items()))
