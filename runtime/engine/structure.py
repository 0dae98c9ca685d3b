"""What holds an answer to a structure, as the engine sees it: which tokens may come next, and which must."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Matcher(Protocol):
    """How far one answer has come in the structure that it must have."""

    @property
    def forced(self) -> tuple[int, ...]:
        """The tokens that must come next, as far as there is one way to write them."""

    @property
    def complete(self) -> bool:
        """Whether nothing more may come."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, bool `[vocab]`, where none is forced."""

    def accept(self, token: int) -> None:
        """Takes the next token. Raises GrammarError if the structure cannot be kept any longer."""


class Grammar(Protocol):
    """A structure that answers must have."""

    def matcher(self) -> Matcher:
        """One for each answer."""
