"""Processes that a test finds while they, and others, come and go."""

from __future__ import annotations

from contextlib import suppress

import psutil


def descendants(of: psutil.Process, word: str) -> list[psutil.Process]:
    """Those below `of` that have `word` among their arguments."""
    found = []
    for child in of.children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if word in child.cmdline():
                found.append(child)
    return found
