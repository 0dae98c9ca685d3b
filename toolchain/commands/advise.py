"""`edgeqwen-compile advise`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from runtime.errors import BudgetError, EdgeQwenError
from runtime.footprint import megabytes
from runtime.profile import Profile, find_profile, require_buildable

from ..sizing.advise import (
    DEPTH_TOKENS,
    MIN_SPEED,
    RECOMMENDED,
    Option,
    Reads,
    Wish,
    advise,
    build_command,
    reads_of,
    room_of,
)
from ..sizing.models import TASKS, read_models
from ..tables import show
from .budget_options import CONTEXT, ROWS, Size


@click.command(
    name="advise",
    epilog="""\b
Examples:
  edgeqwen-compile advise --profile raspberry-pi-5
  edgeqwen-compile advise --profile jetson-orin-nano --task reasoning --context 8192 --rows 2
  edgeqwen-compile advise --profile raspberry-pi-5 --measured bench.json

\b
`edgeqwen bench --json > bench.json` on the board, with any package, says how fast the board is. Without it, speed is
predicted from the bandwidth that the profile has of the maker, or unknown.
Exit status: 0 there is a recommendation, 1 error, 2 usage, 3 profile, 9 nothing fits.""",
)
@click.option("--profile", "named", required=True, help="A profile's name or YAML file.")
@click.option("--task", type=click.Choice(TASKS), default="chat", help="What the model is for. Default: chat")
@CONTEXT
@ROWS
@click.option(
    "--min-speed",
    type=click.FloatRange(min=0),
    default=MIN_SPEED,
    help=f"Tokens/s of one stream, at least. Default: {MIN_SPEED:g}",
)
@click.option("--max-memory", type=Size(), help="What the daemon may take. Default: the board's, less the system's.")
@click.option("--measured", type=click.Path(path_type=Path), help="What `edgeqwen bench --json` printed on the board.")
@click.option("--any-licence", is_flag=True, help="Also models that are not for every use.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def advise_command(
    named: str,
    task: str,
    context_tokens: int | None,
    rows: int | None,
    min_speed: float,
    max_memory: int | None,
    measured: Path | None,
    any_licence: bool,
    as_json: bool,
) -> None:
    """Recommend a model, its precision, context and rows for a board."""
    profile = find_profile(named)
    require_buildable([profile])
    reads = reads_of(profile, _read(measured) if measured else None)
    room = room_of(profile) if max_memory is None else max_memory
    wish = Wish(task, context_tokens, rows, min_speed, room, any_licence)
    options = advise(profile, read_models(), wish, reads)
    best = next((option for option in options if option.verdict == RECOMMENDED), None)
    if as_json:
        click.echo(json.dumps(_as_json(profile, named, wish, reads, options, best)))
    else:
        _show(profile, named, room, reads, options, best)
    if best is None:
        raise BudgetError(
            f"no {task} model suits {profile.name}: try a shorter --context, fewer --rows, a lower --min-speed or"
            " another --task"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise EdgeQwenError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise EdgeQwenError(f"{file} is not what `edgeqwen bench --json` printed")
    return data


def _show(
    profile: Profile, named: str, room: int, reads: Reads | None, options: Sequence[Option], best: Option | None
) -> None:
    if best:
        click.echo(f"{best.model.id} at {best.precision.upper()}, {best.footprint.rows} x {_context(best)} tokens")
        click.echo(f"  memory  {best.footprint}, of {megabytes(room)} that the board has for it")
        click.echo(f"  speed   {_speed(best)}")
        click.echo(f"  build   {build_command(profile, named, best)}")
    table = Table(
        "model", "precision", "weights", "KV a token", "tokens x rows", "KV", "buffers", "total", "tokens/s", ""
    )
    for option in options:
        its = option.footprint
        table.add_row(
            option.model.id,
            option.precision,
            megabytes(its.weights_bytes),
            f"{its.kv_bytes_per_token} B",
            f"{its.context_tokens} x {its.rows}",
            megabytes(its.kv_bytes),
            megabytes(its.buffers_bytes),
            megabytes(its.total_bytes),
            f"{option.speed.tokens_per_s:.1f}" if option.speed else "unknown",
            option.verdict,
        )
    show(table)
    memory = megabytes(profile.device.memory_mb << 20)
    click.echo(f"The board has {memory}, of which the daemon may take {megabytes(room)}; the rest is the system's.")
    click.echo(_about_speed(profile, reads))


def _context(option: Option) -> int:
    return option.footprint.context_tokens


def _speed(option: Option) -> str:
    if option.speed is None:
        return "unknown"
    return f"{option.speed.tokens_per_s:.1f} tokens/s {option.speed.kind}, one stream"


def _about_speed(profile: Profile, reads: Reads | None) -> str:
    if reads is None:
        return (
            "Speed is unknown and was not considered: run `edgeqwen bench --json` on the board with a small model, and"
            " give what it prints with --measured."
        )
    if reads.measured:
        return f"Speed follows from {reads.source}, {reads.measured[1]:.1f} tokens/s."
    return (
        f"Speed is predicted for {DEPTH_TOKENS} tokens of context, from {reads.source}, which is the maker's peak: at"
        " most so much."
    )


def _as_json(
    profile: Profile, named: str, wish: Wish, reads: Reads | None, options: Sequence[Option], best: Option | None
) -> dict[str, Any]:
    return {
        "profile": profile.name,
        "task": wish.task,
        "memory_bytes": profile.device.memory_mb << 20,
        "room_bytes": wish.room_bytes,
        "min_tokens_per_second": wish.min_speed,
        "reads_bytes_per_second": reads and round(reads.bytes_per_s),
        "reads_by": reads and reads.source,
        "recommended": best and _row(best),
        "command": best and build_command(profile, named, best),
        "options": [_row(option) for option in options],
    }


def _row(option: Option) -> dict[str, Any]:
    its, speed = option.footprint, option.speed
    return {
        "model": option.model.id,
        "precision": option.precision,
        "context_tokens": its.context_tokens,
        "rows": its.rows,
        "weights_bytes": its.weights_bytes,
        "kv_bytes_per_token": its.kv_bytes_per_token,
        "kv_bytes": its.kv_bytes,
        "buffers_bytes": its.buffers_bytes,
        "total_bytes": its.total_bytes,
        "tokens_per_second": speed and round(speed.tokens_per_s, 1),
        "speed_is": speed.kind if speed else "unknown",
        "verdict": option.verdict,
    }
