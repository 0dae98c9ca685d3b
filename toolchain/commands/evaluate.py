"""`edgeqwen-compile evaluate`: what a package is worth beside the float checkpoint that it was made of."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from runtime.errors import SourceError
from runtime.package import Package, Source

from ..cache import default_cache
from ..evaluation.material import PARTS, Part, read_material
from ..progress import Reporter
from ..tables import show

if TYPE_CHECKING:
    from ..checkpoints.sources import Checkpoint
    from ..evaluation.evaluation import Evaluation
    from ..evaluation.report import Report

_WINDOWS, _ANSWER_TOKENS = 8, 256


@click.command(
    epilog="""\b
Examples:
  edgeqwen-compile evaluate dist/qwen2.5-0.5b-instruct-int4.ortpackage --variant raspberry-pi-5
  edgeqwen-compile evaluate dist/my-finetune-int8.ortpackage --against ./my-finetune -o report
  edgeqwen-compile evaluate dist/qwen.ortpackage --only choices --choices arc_easy.jsonl --json

\b
The checkpoint must be the one that the package was built from; without --against it is what build.json names.
A file of questions has JSON lines: {"query": "Question: ...?", "choices": ["...", "..."], "gold": 0}
Exit status: 0 done, whatever was found, 1 error, 2 usage, 3 text or questions, 4 package, 5 model cannot run,
7 checkpoint."""
)
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--variant", help="Which one, of a package with several.")
@click.option(
    "--against", metavar="FLOAT", help="Hub id, folder, GGUF file or `reference`. Default: as build.json says."
)
@click.option(
    "--merge-adapter", type=click.Path(path_type=Path), help="The adapter that the package was built with so."
)
@click.option("--text", type=click.Path(path_type=Path), help="Text to compare on. Default: held-out text of ours.")
@click.option(
    "--windows", type=click.IntRange(1), default=_WINDOWS, show_default=True, help="Of 512 tokens, at most so many."
)
@click.option("--choices", type=click.Path(path_type=Path), help="Questions (.jsonl). Default: a set of ours.")
@click.option("--limit", type=click.IntRange(1), help="The first so many questions. Default: all.")
@click.option(
    "--answer-tokens",
    type=click.IntRange(1, 512),
    default=_ANSWER_TOKENS,
    show_default=True,
    help="The most tokens of answers that are looked through for loops.",
)
@click.option("--only", "parts", multiple=True, type=click.Choice(PARTS), help="What to measure. Default: all four.")
@click.option("--cache", type=click.Path(path_type=Path), help="Default: EDGEQWEN_CACHE or ~/.cache/edgeqwen.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Folder for report.json and report.html.")
def evaluate(
    package: Path,
    variant: str | None,
    against: str | None,
    merge_adapter: Path | None,
    text: Path | None,
    windows: int,
    choices: Path | None,
    limit: int | None,
    answer_tokens: int,
    parts: tuple[Part, ...],
    cache: Path | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Compare PACKAGE with the float checkpoint that it was built from.

    Measured are the divergence of its predictions (mean, median and 99th percentile of KLD, top token, perplexity),
    answers to multiple-choice questions, valid JSON, free and held to a schema, and answers that end in a loop.
    """
    material = read_material(
        parts=parts or PARTS,
        text=text,
        windows=windows,
        choices=choices,
        limit=limit,
        answer_tokens=answer_tokens,
    )
    opened = Package.open(package, variant)

    from ..evaluation.evaluation import Evaluator, require_runnable

    require_runnable(opened)
    reporter = Reporter()
    with reporter.stage("checkpoint"):
        checkpoint = _checkpoint(opened.build.source, against, merge_adapter, cache or default_cache())
    found = Evaluator(opened, checkpoint, reporter).evaluate(material)
    if out:
        _write(found, out)
    if as_json:
        click.echo(json.dumps(asdict(found.report)))
    else:
        _show(found.report)
        if out:
            click.echo(str(out / "report.html"))


def _checkpoint(source: Source, against: str | None, merge_adapter: Path | None, cache: Path) -> Checkpoint:
    """The float checkpoint of a package. Raises SourceError if it is none that the package can have been built from."""
    from ..checkpoints import adapters
    from ..checkpoints.sources import resolve

    found = resolve(against or _named(source), revision=None if against else source.revision, cache=cache)
    if merge_adapter:
        found = adapters.merge(found, merge_adapter, cache)
    if found.digest != source.digest:
        merged = "" if merge_adapter or "+" not in source.id else ", and name its adapter with --merge-adapter"
        raise SourceError(
            f"{against or found.id} is not what the package was built from: its digest is {found.digest[:12]}..., not"
            f" {source.digest[:12]}...; give {source.id} as it was then with --against{merged}"
        )
    return found


def _named(source: Source) -> str:
    """How `resolve` finds the checkpoint again, if it is on the hub or is ours."""
    if source.kind == "reference":
        return "reference"
    if source.kind == "hub":
        return source.id.partition("+")[0]
    raise SourceError(f"the package was built from the {source.kind} {source.id}: say where it is with --against")


def _write(found: Evaluation, out: Path) -> None:
    from ..evaluation.report_page import page

    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(asdict(found.report), indent=1) + "\n", encoding="utf-8")
    (out / "report.html").write_text(page(found), encoding="utf-8")


def _show(report: Report) -> None:
    from ..evaluation.report import rows, verdict

    table = Table("", "package", "float", "")
    for row in rows(report):
        table.add_row(row.measure, row.package, row.float_checkpoint, row.note)
    show(table)
    click.echo(verdict(report))
