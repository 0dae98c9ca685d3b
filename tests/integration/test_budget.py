"""Budgeted builds of a small checkpoint: the recipe that was chosen keeps to them, and refusals say what would fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from tiny import make_tiny

from runtime.package import Package
from runtime.profile import find_profile
from toolchain.cli import main
from toolchain.sizing.sizes import shape_of, weights_bytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """generic-x86_64 as it is, but rounded to nearest: in seconds."""
    data = find_profile("generic-x86_64").model_dump() | {"name": "rounded"}
    data["quantization"]["int4"]["algorithm"] = "rtn"
    file = tmp_path_factory.mktemp("profiles") / "rounded.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows long enough for every block, and weights that make nearly all of the file."""
    folder = tmp_path_factory.mktemp("checkpoint") / "middle"
    sizes = {"num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096}
    return make_tiny(folder, "qwen3", hidden_size=256, intermediate_size=768, initializer_range=0.02, **sizes)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def build(checkpoint: Path, profile: Path, build_cache: Path, out: Path, *limits: str) -> Result:
    arguments = ["build", str(checkpoint), "--profile", str(profile), "--json"]
    cache = str(build_cache / "small" / "cache")
    return CliRunner().invoke(main, [*arguments, "--cache", cache, "-o", str(out), *limits])


def built(done: Result) -> tuple[Package, dict[str, object]]:
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    [row] = said["variants"]
    return Package.open(Path(said["package"])), row


def test_a_package_is_inside_its_size(checkpoint: Path, profile: Path, build_cache: Path, out: Path) -> None:
    """As predicted, at most; the chosen knobs are in the variant's profile, the reason in the output and build.json."""
    package, row = built(
        build(checkpoint, profile, build_cache, out, "--max-size", "1.4MB", "--package-version", "2.1.0")
    )
    assert (
        package.build.version == json.loads((package.root / "manifest.json").read_bytes())["package_version"] == "2.1.0"
    )
    chosen = package.build.profile.quantization.int4
    assert (package.build.precision, chosen.mixed_precision, chosen.head_bits) == ("int4", "fisher", 8)
    assert 0.4 < chosen.high_share < 0.6
    shape = shape_of(json.loads((checkpoint / "config.json").read_bytes()), "config.json")
    predicted = weights_bytes(shape, package.build.profile, "int4")
    assert package.build.memory.weights_bytes <= predicted <= 1.4e6
    assert row["chosen"] == package.build.recipe["budget"]["why"]
    assert package.build.recipe["budget"]["limits"] == "weights <= 1.4 MB"


def test_the_smallest_has_a_head_of_4_bits(checkpoint: Path, profile: Path, build_cache: Path, out: Path) -> None:
    """A refusal says how small that is."""
    refused = build(checkpoint, profile, build_cache, out, "--max-size", "0.5MB")
    assert (refused.exit_code, refused.stdout) == (9, "")
    assert not out.exists()
    last = refused.stderr.splitlines()[-1]
    assert "no recipe is inside weights <= 0.5 MB; the smallest, INT4 with 0 % of the layers at 8 bits" in last
    assert last.endswith("allow --max-size 1MB")
    package, _ = built(build(checkpoint, profile, build_cache, out, "--max-size", "0.911MB"))
    assert package.build.profile.quantization.int4.head_bits == 4
    shape = shape_of(json.loads((checkpoint / "config.json").read_bytes()), "config.json")
    predicted = weights_bytes(shape, package.build.profile, "int4")
    assert package.build.memory.weights_bytes == pytest.approx(predicted, rel=0.005)
    assert predicted <= 0.911e6


def test_memory_counts_context_and_rows(checkpoint: Path, profile: Path, build_cache: Path, out: Path) -> None:
    """They are what the package is served with."""
    limits = ("--max-memory", "155MB", "--context", "512", "--rows", "2")
    package, row = built(build(checkpoint, profile, build_cache, out, *limits))
    runtime, memory = package.build.profile.runtime, package.build.memory
    assert (runtime.context_tokens, runtime.slots) == (512, 2)
    assert memory.weights_bytes + 2 * 512 * memory.kv_bytes_per_token + 150e6 <= 155e6
    assert "B a token x 512 tokens x 2 rows" in str(row["chosen"])
    refused = build(checkpoint, profile, build_cache, out, *limits[:2], "--context", "512", "--rows", "64")
    assert refused.exit_code == 9
    assert "a shorter --context or fewer --rows" in refused.stderr


def test_a_fidelity_is_reached_or_refused(checkpoint: Path, profile: Path, build_cache: Path, out: Path) -> None:
    """Alone it takes the smallest that reaches it, by measurement; inside a size that is too small, it is refused."""
    package, _ = built(build(checkpoint, profile, build_cache, out, "--min-fidelity", "0.002"))
    assert package.build.fidelity is not None
    assert package.build.fidelity.mean_kld <= 0.002
    assert package.build.precision == "int4"
    before = package.build_digest
    refused = build(checkpoint, profile, build_cache, out, "--min-fidelity", "0.0001", "--max-size", "1MB")
    assert refused.exit_code == 9
    assert "has a KLD of" in refused.stderr.splitlines()[-1]
    assert "is expected to reach it" in refused.stderr.splitlines()[-1]
    assert Package.open(package.root).build_digest == before


@pytest.mark.parametrize(
    ("limits", "status", "reason"),
    [
        (["--max-size", "25XB"], 2, "must be a size such as 110MB"),
        (["--min-fidelity", "0"], 2, "--min-fidelity"),
        (["--rows", "65"], 3, "runtime.slots: must be <= 64 (got 65)"),
        (["--max-size", "1GB", "--profile", "openvino-x86_64"], 3, "openvino-x86_64: a budget chooses among"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_model_is_looked_for(
    limits: list[str], status: int, reason: str, profile: Path, tmp_path: Path
) -> None:
    done = build(tmp_path / "nowhere", profile, tmp_path, tmp_path / "out", *limits)
    assert done.exit_code == status
    assert reason in " ".join(done.stderr.split())
    assert "checkpoint" not in done.stderr
