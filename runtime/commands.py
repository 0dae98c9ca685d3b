"""What this package adds to the `edgeqwen` command, by the entry points `edgeqwen.commands` of pyproject.toml.

Loaded also where only the client is installed: what the runtime needs is imported when a command runs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .one_line import note, one_line_errors
from .reach import somebody_listens

if TYPE_CHECKING:
    from .bench.measuring import Benchmark, Board, Tuned

_CONFIG_FILE = Path("/etc/edgeqwen/edgeqwend.yaml")
_BUSY = 0.1  # of the cores; more of other programs makes figures doubtful


def _counts(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        counts = sorted({int(part) for part in value.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise click.BadParameter("looks like 1,2,4: whole numbers above 0")
    return counts


class _Connection(Protocol):
    """What `edgeqwen` knows of the daemon that it would talk to."""

    @property
    def address(self) -> str:
        """`unix:PATH` or `HOST:PORT`."""


@click.command(
    epilog="""\b
Examples:
  edgeqwen bench                                   # the package that edgeqwend serves here
  edgeqwen bench qwen.ortpackage --prompt 64,1024 --streams 1,4 --rounds 5
  edgeqwen bench --autotune && systemctl restart edgeqwend

\b
Prompts are random tokens; every prompt runs alone, and the shortest also with several streams.
Figures are medians of the rounds, in this process; a daemon is not asked.
Exit status as of edgeqwend: 0 done, 1 error, 2 usage, 3 configuration, 4 package, 5 model cannot run.""",
)
@click.argument("package", required=False, type=click.Path(path_type=Path))
@click.option("--variant", help="Of the package; needed if it has several.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help=f"edgeqwend's. Default: {_CONFIG_FILE}")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where the daemon looks for what was found.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the model. Default: as edgeqwend has them.")
@click.option("--device", help="Of OpenVINO: CPU, GPU or NPU. Default: as edgeqwend has it.")
@click.option("--prompt", "prompts", default="41,656", callback=_counts, help="Tokens of prompts. Default: 41,656")
@click.option("--tokens", default=64, type=click.IntRange(min=2), help="Tokens of an answer. Default: 64")
@click.option("--streams", default="1,2,4,8", callback=_counts, help="Requests at once. Default: 1,2,4,8")
@click.option("--rounds", default=3, type=click.IntRange(min=1), help="How often each is measured. Default: 3")
@click.option("--autotune", is_flag=True, help="Find threads, slots and the cost of a token, and keep them.")
@click.option(
    "--budget", "budget_s", default=120.0, type=click.FloatRange(min=1), help="Of --autotune, s. Default: 120"
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def bench(
    daemon: _Connection,
    /,
    package: Path | None,
    config_file: Path | None,
    prompts: list[int],
    tokens: int,
    streams: list[int],
    rounds: int,
    autotune: bool,
    budget_s: float,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure how fast this board runs PACKAGE; with --autotune, find how it runs it best."""
    try:
        from .bench.measuring import Board
    except ImportError as error:
        message = f"bench runs the model itself, and {error.name} is not installed: pip install 'edgeqwen[runtime]'"
        raise click.ClickException(message) from error
    if somebody_listens(daemon.address):
        note(f"a daemon runs at {daemon.address} and may use the cores: stop it for true figures")
    with one_line_errors():
        board = Board.open(_config_file(config_file), os.environ, {"package": package, **flags})
        if board.complaint:
            note(f"local settings ignored: {board.complaint}")
        if autotune:
            with _progress("measuring") as report:
                tuned = board.autotune(budget_s, lambda what, share: report(share, f"measuring {what}"))
            _warn_if_busy(tuned.others_busy)
            (_tuned_as_json if as_json else _show_tuned)(board, tuned)
        else:
            with _progress("measuring") as report:
                result = board.measure(prompts, tokens, streams, rounds, lambda share: report(share, "measuring"))
            _warn_if_busy(result.others_busy)
            (_bench_as_json if as_json else _show_bench)(board, result)


def _config_file(named: Path | None) -> Path | None:
    if named is None and (value := os.environ.get("EDGEQWEN_CONFIG")):
        return Path(value)
    return named or (_CONFIG_FILE if _CONFIG_FILE.is_file() else None)


def _warn_if_busy(share: float) -> None:
    if share > _BUSY:
        note(f"other programs kept {share:.0%} of the cores busy: measure again without them")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[float, str], None]]:
    """A bar with the time left, on stderr; off a terminal, one line."""
    console = Console(stderr=True)
    if not console.is_terminal:
        click.echo(f"{what} ...", err=True)
        yield lambda _share, _what: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share, now: progress.update(task, completed=share, description=now)


def _about(board: Board) -> dict[str, Any]:
    """What was measured."""
    build = board.package.build
    return {"model": build.name, "variant": build.variant, "precision": build.precision, "cpu": board.cpu.identity}


def _bench_as_json(board: Board, result: Benchmark) -> None:
    settings = board.settings
    measured = {
        "prefill_threads": settings.prefill_threads,
        "decode_threads": settings.decode_threads,
        "threads_from": settings.threads_from,
        "load_s": round(result.load_s, 3),
        "others_busy": round(result.others_busy, 3),
        "weights_bytes": board.package.build.memory.weights_bytes,
        "resident_loaded_bytes": result.loaded_bytes,
        "resident_after_bytes": result.after_bytes,
        "cases": [
            asdict(case)
            | {
                "first_token_ms": round(1e3 * rates.first_token_s, 1),
                "prefill_tokens_per_second": round(rates.prefill, 1),
                "decode_tokens_per_second": round(rates.decode, 1),
            }
            for case, rates in result.cases.items()
        ],
    }
    click.echo(json.dumps(_about(board) | measured))


def _show_bench(board: Board, result: Benchmark) -> None:
    _print_about(board)
    headings = ("prompt", "streams", "first token, ms", "prefill, tokens/s", "decode, tokens/s", "a stream")
    rows = (
        (
            case.prompt,
            case.streams,
            *map(_number, (1e3 * its.first_token_s, its.prefill, its.decode, its.decode / case.streams)),
        )
        for case, its in result.cases.items()
    )
    _print(_table(headings, rows))
    weights = board.package.build.memory.weights_bytes
    click.echo(
        f"loaded in {result.load_s:.2f} s; {result.loaded_bytes / 1e6:.0f} MB resident then and"
        f" {result.after_bytes / 1e6:.0f} MB at the end, weights {weights / 1e6:.0f} MB"
    )


def _tuned_as_json(board: Board, tuned: Tuned) -> None:
    measured = tuned.measured
    rounds = {
        "prefill_tokens_per_second_by_threads": measured.prefill,
        "decode_tokens_per_second_by_threads": measured.decode,
        "decode_tokens_per_second_by_rows": measured.totals,
        "step_seconds_by_tokens": measured.steps,
    }
    medians = {name: {key: float(f"{value:.4g}") for key, value in _medians(its)} for name, its in rounds.items()}
    result = {
        "file": str(board.file.path),
        "settings": tuned.kept.model_dump(mode="json"),
        "in_time": measured.in_time,
        "others_busy": round(tuned.others_busy, 3),
        "medians": medians,
    }
    click.echo(json.dumps(_about(board) | result))


def _show_tuned(board: Board, tuned: Tuned) -> None:
    measured, kept = tuned.measured, tuned.kept
    _print_about(board, with_settings=False)
    speeds = (
        (count, _number(prefill), _number(decode))
        for (count, prefill), (_, decode) in zip(_medians(measured.prefill), _medians(measured.decode), strict=True)
    )
    _print(_table(("threads", "prefill, tokens/s", "decode, tokens/s"), speeds))
    _print(_table(("rows", "decode, tokens/s"), ((n, _number(its)) for n, its in _medians(measured.totals))))
    _print(_table(("tokens a step", "ms"), ((n, _number(1e3 * its)) for n, its in _medians(measured.steps))))
    threads = f"{kept.packed.prefill_threads}, {kept.packed.decode_threads}" if kept.packed else f"{kept.threads}"
    what = "threads of prefill and decode" if kept.packed else "threads"
    click.echo(f"best: {what} {threads}; slots {kept.slots}; a further token costs {kept.token_cost:.0%} of a step")
    if measured.threads != measured.common and kept.packed is None:
        apart = measured.threads
        click.echo(
            f"Prefill wants {apart.prefill} and decode {apart.decode}, but weights that both share cannot be made."
        )
    if not measured.in_time:
        click.echo("Some were measured less than three times: with a larger --budget this is surer.")
    click.echo(f"kept in {board.file.path}; edgeqwend takes it when it starts next")
    if board.config.threads or board.config.slots:
        click.echo("The configuration sets threads or slots, which count more: remove them there.")


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _number(value: float) -> str:
    return f"{value:.1f}"


def _print_about(board: Board, *, with_settings: bool = True) -> None:
    about, settings = _about(board), board.settings
    click.echo("{model} ({variant}, {precision}) on {cpu}".format(**about))
    if with_settings:
        counts = " and ".join(map(str, dict.fromkeys((settings.prefill_threads, settings.decode_threads))))
        click.echo(f"threads: {counts}, by the {settings.threads_from}")


def _print(table: Table) -> None:
    Console(markup=False, emoji=False, highlight=False).print(table)


def _medians(rounds: Mapping[int, Sequence[float]]) -> list[tuple[int, float]]:
    return [(key, median(its)) for key, its in sorted(rounds.items())]
