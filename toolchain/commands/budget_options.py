"""The options of `edgeqwen-compile` that limit what a package takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from runtime.footprint import parse_size

from ..sizing.budget import Budget


class Size(click.ParamType[int]):
    """Bytes, as people write them."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


CONTEXT = click.option(
    "--context",
    "context_tokens",
    type=click.IntRange(min=1),
    metavar="TOKENS",
    help="Of prompt and answer together, instead of the profile's.",
)
ROWS = click.option(
    "--rows", type=click.IntRange(min=1), help="Requests that decode together, instead of the profile's slots."
)
_BUDGET = (
    click.option("--max-size", type=Size(), help="Choose the recipe: the most faithful whose weights are so small."),
    click.option(
        "--max-memory", type=Size(), help="... whose weights, full KV cache and buffers fit: 1GiB, 900MB, ..."
    ),
    click.option(
        "--min-fidelity",
        type=click.FloatRange(min=0, min_open=True),
        metavar="KLD",
        help="... whose mean KLD on the held-out text is at most so much; alone: the smallest such.",
    ),
    CONTEXT,
    ROWS,
)


def budget_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds them to a command; its arguments are those of `budget_of`, `context_tokens` and `rows`."""
    for option in reversed(_BUDGET):
        command = option(command)
    return command


def budget_of(max_size: int | None, max_memory: int | None, min_fidelity: float | None) -> Budget:
    """What the options say."""
    return Budget(max_size_bytes=max_size, max_memory_bytes=max_memory, max_kld=min_fidelity)
