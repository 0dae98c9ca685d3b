"""Guides are true: the table of errors is what the daemon sends and a client makes of it; examples can be copied."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from google.rpc import code_pb2
from unit.edgeqwen.scripted_server import refuse, scripted

from edgeqwen.cli import main
from edgeqwen.client import Client, ClientError
from runtime import errors
from runtime.api.replies import _CODES, status_of
from runtime.configuration.config import load_config
from runtime.profile import find_profile
from toolchain.matrix.file import read_matrix_file
from toolchain.matrix.plan import jobs_of

DOCS = Path(__file__).parents[1] / "docs"

EXAMPLES: dict[str, errors.EdgeQwenError] = {
    "RequestError": errors.RequestError([errors.Fault("n", "must be 1 to 16 (got 17)")]),
    "QueueFull": errors.QueueFull(3, 1.5, "panel"),
    "RateLimited": errors.RateLimited("panel", "tokens_per_minute", 9, 1.5),
    "DeadlineTooShort": errors.DeadlineTooShort(9.0, 1.0),
    "Unauthenticated": errors.Unauthenticated(),
    "PermissionDenied": errors.PermissionDenied("uid:1000", "admin"),
    "DowngradeRefused": errors.DowngradeRefused("qwen", "1.0.0", "1.1.0"),
}


def rows() -> list[tuple[str, ...]]:
    """Cells of the first table, marks of code left out."""
    lines = iter((DOCS / "errors.md").read_text(encoding="utf-8").split("| error |")[1].splitlines()[2:])
    cells = []
    for line in lines:
        if not line.startswith("|"):
            break
        cells.append(tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")))
    return cells


def test_the_guide_has_the_table_of_the_code() -> None:
    """The same errors in the same order, each with its code."""
    ours = [(kind.__name__, code_pb2.Code.Name(code)) for kind, code in _CODES]
    assert [row[:2] for row in rows()] == ours


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_an_error_reaches_its_client_as_the_guide_says(row: tuple[str, ...]) -> None:
    """Status details, exception, message and exit status."""
    name, _, details, kind, exit_status, advice = row
    error = EXAMPLES.get(name) or getattr(errors, name)("so it is")
    sent = [detail.TypeName().removeprefix("google.rpc.") for detail in status_of(error).details]
    assert ", ".join(sent) == details
    with scripted(refuse(error)) as target:
        with Client(target) as client, pytest.raises(ClientError) as raised:
            client.complete("a")
        done = CliRunner().invoke(main, ["--target", target, "generate", "a"])
    assert type(raised.value).__name__ == kind
    assert str(error) in str(raised.value)
    assert (done.exit_code, done.stderr) == (int(exit_status), f"edgeqwen: {raised.value}\n")
    assert advice.endswith(".")


def test_the_limits_that_are_shown_are_limits(tmp_path: Path) -> None:
    """What docs/serving.md has can be copied."""
    block = (DOCS / "serving.md").read_text(encoding="utf-8").split("```yaml\nlimits:")[1].split("```")[0]
    (tmp_path / "d.yaml").write_text(f"package: p\nlimits:{block}")
    book = load_config(tmp_path / "d.yaml", {}, {}).limits.book
    assert book.of("uid:1000") == dataclasses.replace(book.default, concurrent_requests=2)
    assert book.of("certificate:spiffe://fleet/report") == dataclasses.replace(book.default, tokens_per_minute=None)
    assert None not in dataclasses.astuple(book.default)


def test_the_matrix_that_is_shown_can_be_built(tmp_path: Path) -> None:
    """What docs/building.md has can be copied, and says what it says."""
    block = (DOCS / "building.md").read_text(encoding="utf-8").split("```yaml\noutput:")[1].split("```")[0]
    file = tmp_path / "matrix.yaml"
    file.write_text(f"output:{block}")
    for folder in ("my-finetune", "boards"):
        (tmp_path / folder).mkdir()
    (tmp_path / "texts.jsonl").touch()
    gateway = find_profile("generic-x86_64").model_dump() | {"name": "our-gateway"}
    (tmp_path / "boards" / "our-gateway.yaml").write_text(yaml.safe_dump(gateway))
    jobs = {job.name: job for job in jobs_of(read_matrix_file(file), tmp_path, "shown", sources_are_here=True)}
    on_gateways, on_all = ("generic-x86_64", "our-gateway"), ("raspberry-pi-5", "generic-x86_64", "our-gateway")
    assert {name: tuple(profile.name for profile in job.profiles) for name, job in jobs.items()} == {
        "qwen2.5-0.5b-instruct-int4": on_all,
        "qwen2.5-0.5b-instruct-int8": on_gateways,
        "qwen3-0.6b-int4": on_all,
        "my-finetune-int4": on_all,
        "my-finetune-int8": on_gateways,
        "smollm2-135m-instruct-float32": ("generic-x86_64",),
    }
    assert {name for name, job in jobs.items() if job.calibration} == {"my-finetune-int4", "my-finetune-int8"}
    assert {job.version for job in jobs.values()} == {"1.2.0"}
