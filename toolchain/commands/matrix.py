"""`edgeqwen-compile build --matrix`: many packages from one file."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.table import Table

from runtime.errors import BuildError

from ..cache import default_cache
from ..matrix.file import read_matrix_file
from ..matrix.plan import Job, jobs_of
from ..progress import Reporter
from ..tables import show

if TYPE_CHECKING:
    from ..matrix.cluster import Workers
    from ..matrix.run import Result

_OPTIONS = (
    click.option(
        "--matrix",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Build all packages of a YAML file: models x profiles x precisions.",
    ),
    click.option("--list", "only_list", is_flag=True, help="With --matrix: say what would be built, and stop."),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="With --matrix: builds at once. Default: as memory and cores allow.",
    ),
    click.option(
        "--cluster",
        metavar="ADDRESS",
        help="With --matrix: build on the workers of a Dask scheduler, tcp:// or tls://HOST:PORT.",
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0, max=100),
        default=2,
        show_default=True,
        help="With --matrix: how often a package is begun again whose worker died.",
    ),
    click.option("--fail-fast", is_flag=True, help="With --matrix: stop the others once one cannot be built."),
)
_OURS = ("matrix", "only_list", "workers", "cluster", "retries", "fail_fast")
_SHARED = ("cache", "as_json", "out")
_NEEDED = ("source", "profiles", "out")
"""What building one package needs. Click cannot ask for it, as a matrix needs none of it."""


def matrix_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds them to `build`, which is then for one package where there is no `--matrix`."""

    @functools.wraps(command)
    def either(**given: Any) -> None:
        ctx = click.get_current_context()
        ours = {name: given.pop(name) for name in _OURS}
        if ours["matrix"] is None:
            _refuse(ctx, _OURS, "is for --matrix")
            for param in ctx.command.params:
                if param.name in _NEEDED and not given[param.name]:
                    raise click.MissingParameter(ctx=ctx, param=param)
            command(**given)
        else:
            elsewhere = [name for name in given if name not in _SHARED]
            _refuse(ctx, elsewhere, "is for one package: with --matrix, its FILE says what is built")
            build_matrix(**ours, **{name: given[name] for name in _SHARED})

    for option in reversed(_OPTIONS):
        either = option(either)
    return either


def _refuse(ctx: click.Context, names: Sequence[str], why: str) -> None:
    """What of these is on the command line makes no sense there."""
    for param in ctx.command.params:
        if param.name in names and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{param.get_error_hint(ctx)} {why}")


def build_matrix(
    *,
    matrix: Path,
    only_list: bool,
    workers: int | None,
    cluster: str | None,
    retries: int,
    fail_fast: bool,
    cache: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Builds the packages of the file `matrix`, and says what became of each."""
    if workers and cluster:
        raise click.UsageError("a cluster has the workers that it has: --workers is for those of this machine")
    file = read_matrix_file(matrix)
    jobs = jobs_of(file, matrix.parent, str(matrix), sources_are_here=not cluster)
    if only_list:
        _list(jobs, as_json)
        return
    if out is None and file.output is None:
        raise click.UsageError(f"say where packages go, with `output` in {matrix} or with --output")
    folder = (out or matrix.parent / Path(str(file.output)).expanduser()).absolute()

    _require_dask()
    from ..exhaustion import available_memory, said
    from ..host import cores
    from ..matrix.cluster import cluster_workers, local_workers
    from ..matrix.room import worker_count
    from ..matrix.run import MatrixRun

    report = Reporter()
    there: AbstractContextManager[Workers]
    if cluster:
        there = cluster_workers(cluster)
    else:
        cache = cache or default_cache()
        if workers is None:
            workers, why = worker_count([job.source for job in jobs], cores(), available_memory())
            report.note(why)
        there = local_workers(min(workers, len(jobs)))
    with said([folder]), there as found, report.jobs(len(jobs)) as progress:
        run = MatrixRun(
            found, progress, out=folder, cache=cache and cache.absolute(), retries=retries, fail_fast=fail_fast
        )
        results = run.run(jobs)
    _say(results, as_json)


def _require_dask() -> None:
    try:
        version("distributed")
    except PackageNotFoundError as error:
        raise BuildError("--matrix needs the extra `matrix`: pip install 'edgeqwen[matrix]'") from error


def _say(results: Sequence[Result], as_json: bool) -> None:
    """Raises BuildError if a package is missing."""
    if as_json:
        changed = any(result.status == "built" for result in results)
        click.echo(json.dumps({"changed": changed, "jobs": [result.as_row() for result in results]}))
    else:
        show(_table(results))
        if all(result.status == "unchanged" for result in results):
            click.echo("nothing to do: every package is there, made of the same")
    if missing := [result.job.name for result in results if result.package is None]:
        raise BuildError(f"{len(missing)} of {len(results)} packages could not be built: {', '.join(missing)}")


def _table(results: Sequence[Result]) -> Table:
    table = Table("package", "status", "size", "KLD", "seconds", "worker", "tries", "where, or why not")
    for result in results:
        table.add_row(
            result.job.name,
            result.status,
            f"{result.size_bytes / 1e6:.1f} MB" if result.size_bytes else "",
            ", ".join(f"{row['variant']} {row['mean_kld']}" for row in result.variants),
            f"{result.seconds:.1f}" if result.seconds else "",
            result.worker or "",
            str(result.tries),
            str(result.package or result.reason or ""),
        )
    return table


def _list(jobs: Sequence[Job], as_json: bool) -> None:
    rows = [
        {
            "name": job.name,
            "model": job.source,
            "precision": job.precision,
            "profiles": [profile.name for profile in job.profiles],
            "version": job.version,
        }
        for job in jobs
    ]
    if as_json:
        click.echo(json.dumps({"jobs": rows}))
        return
    table = Table("package", "model", "precision", "profiles")
    for job in jobs:
        table.add_row(job.name, job.source, job.precision, ", ".join(profile.name for profile in job.profiles))
    show(table)
