"""`edgeqwen-compile sweep`: many recipes on one checkpoint, and which of them nothing beats."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from runtime.errors import BuildError
from runtime.profile import find_profile, require_buildable

from ..cache import default_cache
from ..sweeping.candidates import Candidate, candidates
from ..tables import show
from .budget_options import Size


@click.command(
    epilog="""\b
Examples:
  edgeqwen-compile sweep reference --profile generic-x86_64 -o sweep
  edgeqwen-compile sweep ./my-finetune --profile raspberry-pi-5 --recipe 'int4*' --max-size 110MB --time 3600 -o sweep
  edgeqwen-compile sweep reference --profile generic-x86_64 --list

\b
Writes sweep.md, sweep.json and sweep.png. Run it again to go on: what was compiled and measured is kept in the cache.
To build with a recipe that it found, put its knobs into a profile of your own.
Exit status: 0 done, 1 error, 2 usage, 3 profile, 7 checkpoint, 8 no recipe could be measured."""
)
@click.argument("source")
@click.option("--profile", required=True, help="A CPU's or CUDA's, whose recipe is varied.")
@click.option(
    "--recipe", "patterns", multiple=True, default=["*"], help="Only recipes so called, * fits all; may be given again."
)
@click.option("--max-size", type=Size(), help="Leave out larger weights: 400MB, 1GiB, ...")
@click.option(
    "--time", "max_seconds", type=click.FloatRange(min=0), metavar="SECONDS", help="Begin no other recipe after this."
)
@click.option("--calibration", type=click.Path(path_type=Path), help="Your text (.txt or .jsonl), as for build.")
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--cache", type=click.Path(path_type=Path), help="Default: EDGEQWEN_CACHE or ~/.cache/edgeqwen.")
@click.option("--list", "only_list", is_flag=True, help="Say what would be tried, and stop.")
@click.option("--json", "as_json", is_flag=True, help="The results as JSON on stdout.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), default=Path("sweep"), help="Default: sweep")
def sweep(
    source: str,
    profile: str,
    patterns: tuple[str, ...],
    max_size: int | None,
    max_seconds: float | None,
    calibration: Path | None,
    revision: str | None,
    cache: Path | None,
    only_list: bool,
    as_json: bool,
    out: Path,
) -> None:
    """Compare recipes on SOURCE: bytes against fidelity and decode speed."""
    board = find_profile(profile)
    require_buildable([board])
    if board.execution.backend not in ("ort", "cuda"):
        raise click.UsageError(
            f"a sweep compares recipes for CPUs and CUDA; {board.name} is for {board.execution.name}"
        )
    tried = [each for each in candidates(board) if any(fnmatch.fnmatch(each.name, pattern) for pattern in patterns)]
    if not tried:
        raise click.UsageError(f"no recipe is called {' or '.join(patterns)}: see --list")
    if only_list:
        _list(tried, as_json)
        return

    from ..checkpoints.sources import resolve
    from ..compile import load_olive
    from ..exhaustion import said
    from ..host import measured_on
    from ..progress import Reporter
    from ..sweeping.report import as_json as json_of
    from ..sweeping.report import table_of, write_report
    from ..sweeping.sweep import run_sweep
    from ..variants.stages import Stages

    report, folder = Reporter(), cache or default_cache()
    with said([folder, out]):
        with report.stage("checkpoint"):
            checkpoint = resolve(source, revision=revision, cache=folder)
        load_olive()
        found = run_sweep(
            Stages(checkpoint, folder, calibration, report),
            board,
            tried,
            max_bytes=max_size,
            max_seconds=max_seconds,
        )
        if not found.results:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in (found.failed | found.left_out).items())
            raise BuildError(f"no recipe could be measured: {reasons}")
        write_report(found, out, title=f"{checkpoint.name} for {board.name}", measured_on=measured_on())
    if as_json:
        click.echo(json.dumps(json_of(found)))
    else:
        show(table_of(found))
        click.echo(str(out / "sweep.md"))


def _list(tried: Sequence[Candidate], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([asdict(each) for each in tried]))
        return
    for each in tried:
        changed = ", ".join(f"{knob} {value}" for knob, value in each.knobs.items()) or "as the profile has it"
        click.echo(f"{each.name}: {changed}")
