"""The part of the configuration that is about a store of packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ..validation import StrictModel


class StoreSettings(StrictModel):
    """A folder that `edgeqwen install` fills, and when what is activated from it is kept."""

    path: Annotated[Path, Field(strict=False, description="Such as /var/lib/edgeqwen/store.")]
    commit_after_s: Annotated[float, Field(ge=1, le=30 * 86_400)] = Field(
        default=600.0, description="How long a package must have been well on trial, in seconds, to be kept."
    )
    commit_after_calls: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        default=200, description="So many calls that ended well do it earlier, from a minute on."
    )
    budget_bytes: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="What packages may take before those in no slot go, oldest first; unset: a quarter of the disk.",
    )


def _by_path(value: Any) -> Any:
    """A path alone stands for a store with nothing else said of it."""
    return {"path": value} if isinstance(value, str | Path) else value


StoreSetting = Annotated[StoreSettings, BeforeValidator(_by_path)]
"""As the file, the environment and the flag may have it."""
