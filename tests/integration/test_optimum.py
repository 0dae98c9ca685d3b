"""The second exporter: Optimum's graph computes what transformers does, also where ModelBuilder has no graph."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime_genai as og
import pytest
from integration.compiler import compile
from integration.daemons import start
from integration.reference import expected_logits
from integration.refusals import Place, refused
from tiny import change_config, make_tiny

from edgeqwen.client import Client, Options
from runtime.errors import SessionError
from runtime.package import Package
from runtime.sessions.plain_session import PlainSession
from runtime.sessions.session import Chunk

pytestmark = pytest.mark.slow

CPU = ("--profile", "generic-x86_64")
OPTIMUM = ("--exporter", "optimum")
Kind = Literal["qwen2", "sliding", "qwen3_moe"]


def make(folder: Path, kind: Kind) -> Path:
    """A checkpoint of two layers. One of `sliding` sees only the last 8 tokens."""
    if kind != "sliding":
        return make_tiny(folder, kind)
    layers = ["full_attention", "sliding_attention"]
    change_config(
        make_tiny(folder, "qwen2"), use_sliding_window=True, sliding_window=8, max_window_layers=1, layer_types=layers
    )
    return folder


@pytest.fixture(scope="module", params=["qwen2", "sliding", "qwen3_moe"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Place]:
    """A checkpoint, and the place of its packages."""
    folder = tmp_path_factory.mktemp(request.param)
    return make(folder / "tiny", request.param), Place(folder / "cache", folder / "out")


def build(made: tuple[Path, Place], precision: str) -> Package:
    checkpoint, place = made
    done = compile(*place.arguments(checkpoint, *CPU, *OPTIMUM, precision=precision))
    assert done.exit_code == 0, done.stderr
    assert "Optimum's graph is slower than ModelBuilder's and runs one request at a time" in done.stderr
    return Package.open(place.out / f"tiny-{precision}.ortpackage")


def some_tokens(count: int, *, seed: int = 0) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(3, 300, count).tolist()
    return tokens


def test_logits_and_greedy_tokens_are_those_of_transformers(made: tuple[Path, Place]) -> None:
    """In float32, in whatever chunks the tokens come, for any number of them; after a row was gone back in, only what
    was kept or replaced counts."""
    package = build(made, "float32")
    checkpoint = made[0]
    session = PlainSession(package.serving_graph, context_tokens=64, threads=1)
    tokens, others = some_tokens(40), some_tokens(40, seed=1)
    expected = expected_logits(checkpoint, tokens)
    parts, at = [], 0
    for end in (7, 8, 9, 30, 31, 40):
        parts.append(session.run([Chunk(0, tokens[at:end], at, logits=end - at)]).copy())
        at = end
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-4)
    assert session.run([Chunk(0, [5], 40, logits=0)]).shape == (0, expected.shape[1])
    session.clear(0, keep=20)
    got = session.run([Chunk(0, others[15:25], 15)])
    np.testing.assert_allclose(got[0], expected_logits(checkpoint, [*tokens[:15], *others[15:25]])[-1], atol=1e-4)
    session.clear(0)
    got = session.run([Chunk(0, others, 0, logits=2)])
    np.testing.assert_allclose(got, expected_logits(checkpoint, others)[-2:], atol=1e-4)
    prompt, answer = package.build.golden.prompt_ids, package.build.golden.greedy_ids
    assert expected_logits(checkpoint, [*prompt, *answer]).argmax(-1)[len(prompt) - 1 : -1].tolist() == answer


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_packages_are_served(made: tuple[Path, Place], precision: str) -> None:
    """One request at a time, as the build answered. The package and the daemon say which graph it is."""
    package = build(made, precision)
    what = package.build
    assert (what.exporter, what.one_row, what.needs.contrib_ops) == (
        "optimum",
        True,
        ["GatherBlockQuantized", "MatMulNBits"],
    )
    assert what.fidelity is not None
    assert what.fidelity.mean_kld < (0.01 if precision == "int8" else 0.2)
    golden = what.golden
    with start(package.root) as daemon, Client(daemon.target) as client:
        [loaded] = client.snapshot().models
        assert loaded.model.provider == "CPUExecutionProvider (Optimum's graph, slower)"
        assert loaded.model.provider_requested == loaded.model.provider
        assert loaded.engine.slots == 1
        greedy = Options(max_tokens=len(golden.greedy_ids), temperature=0.0, ignore_eos=True)
        answers = [client.samples(token_ids=golden.prompt_ids, options=greedy)[0] for _ in range(2)]
    for answer in answers:
        assert list(answer.token_ids) == golden.greedy_ids
    assert answers[1].finished.cached_prompt_tokens > 0


def test_onnxruntime_genai_runs_it_too(made: tuple[Path, Place]) -> None:
    """Nobody is locked in: its logits are transformers' own."""
    graph = build(made, "float32").serving_graph.read_bytes()
    checkpoint, place = made
    [folder] = [path.parent for path in place.cache.glob("compiled/*/model.onnx") if path.read_bytes() == graph]
    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=64)
    generator = og.Generator(model, parameters)
    tokens = some_tokens(20)
    generator.append_tokens(np.array([tokens], np.int32))
    np.testing.assert_allclose(generator.get_logits()[0, -1], expected_logits(checkpoint, tokens)[-1], atol=1e-4)


def test_a_graph_that_optimum_did_not_write_is_refused(tmp_path: Path) -> None:
    """The serving graph of the other exporter has no mask."""
    place = Place(tmp_path / "cache", tmp_path / "out")
    done = compile(*place.arguments(make_tiny(tmp_path / "tiny", "qwen2"), *CPU, precision="float32"))
    assert done.exit_code == 0, done.stderr
    [package] = place.out.iterdir()
    with pytest.raises(SessionError, match="is no decoder as Optimum exports them"):
        PlainSession(Package.open(package).variant_dir / "serving.onnx", context_tokens=64, threads=1)


@pytest.mark.parametrize("kind", ["sliding", "qwen3_moe"])
def test_what_only_optimum_exports_is_refused_with_the_way_out(tmp_path: Path, kind: Kind) -> None:
    """By default, in one line; and Optimum's is refused where nothing runs it."""
    checkpoint, place = make(tmp_path / "tiny", kind), Place(tmp_path / "cache", tmp_path / "out")
    status, said = refused(place, place.build(checkpoint, *CPU))
    assert status == 7
    assert said.endswith(
        "for which ModelBuilder has no graph: build it with --exporter optimum, which makes a slower one"
    )
    status, said = refused(place, place.build(checkpoint, "--profile", "jetson-orin-nano", *OPTIMUM))
    assert (status, "must be CPUExecutionProvider with --exporter optimum (got CUDAEx" in said) == (3, True)
    status, said = refused(place, place.build(checkpoint, *CPU, *OPTIMUM, "--adapter-targets", "q_proj"))
    assert (status, "put one into the weights with --merge-adapter" in said) == (4, True)
