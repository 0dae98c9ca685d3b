"""OpenVINO's part, on its CPU: `make test-openvino` runs it, in an environment that has OpenVINO.

What runs on the NPU and the GPU is the session of one row, which is the same on the CPU but for the device's name.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai
import pytest
from integration.daemons import start
from integration.packages import build_package, small_checkpoint
from integration.reference import assert_rows_share_a_run, expected_logits
from integration.test_docs import OPENVINO_GUIDE, blocks, run

from edgeqwen.client import Client
from edgeqwen.messages import Options
from runtime.errors import SessionError
from runtime.package import Package, variants_of
from runtime.sessions.openvino_paged import OpenVinoPagedSession
from runtime.sessions.openvino_session import open_openvino
from runtime.sessions.openvino_stateful import OpenVinoStatefulSession
from runtime.sessions.session import Chunk, Session

pytestmark = pytest.mark.openvino

CPU, NPU, ORT = "openvino-x86_64", "intel-core-ultra-npu", "generic-x86_64"


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def small(request: pytest.FixtureRequest, build_cache: Path) -> tuple[Path, Path]:
    """A random checkpoint of real shape, with qkv bias or with q/k norm, and its IR at float32."""
    cache = build_cache / "small"
    checkpoint = small_checkpoint(request.param, cache)
    package = build_package("float32", CPU, cache=cache, source=str(checkpoint))
    return checkpoint, Package.open(package).serving_graph


@pytest.fixture(scope="module")
def mixed_package(build_cache: Path) -> Path:
    """The reference checkpoint at INT8, for ONNX Runtime and for two of OpenVINO's devices."""
    return build_package("int8", ORT, CPU, NPU, cache=build_cache)


@pytest.mark.parametrize("small", ["qwen2"], indirect=True)
def test_another_folder_makes_the_same_package(small: tuple[Path, Path], tmp_path: Path) -> None:
    """To the last byte, for each device."""
    checkpoint, _ = small
    made = [build_package("int8", CPU, NPU, cache=tmp_path / name, source=str(checkpoint)) for name in ("a", "b")]
    for variant in (CPU, NPU):
        assert len({Package.open(package, variant).build_digest for package in made}) == 1


def paged(
    model: Path, slots: int = 1, kv_dtype: str = "float32", int8_activations: bool = True
) -> OpenVinoPagedSession:
    return OpenVinoPagedSession(
        model, slots=slots, context_tokens=512, threads=2, kv_dtype=kv_dtype, int8_activations=int8_activations
    )


def stateful(model: Path, device: str = "CPU") -> OpenVinoStatefulSession:
    return OpenVinoStatefulSession(
        model, device=device, context_tokens=512, threads=2, kv_dtype="float32", int8_activations=False
    )


def some_tokens(count: int, seed: int = 0) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(3, 300, count).tolist()
    return tokens


def resident_kb() -> int:
    return int(re.search(r"^RssAnon:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1])  # type: ignore[index]


@pytest.mark.parametrize("open_session", [paged, stateful])
def test_logits_are_those_of_transformers(small: tuple[Path, Path], open_session: type[Session]) -> None:
    """Of every position within 1e-3, in one chunk, in ragged chunks, and decoding; so chunks change nothing."""
    checkpoint, model = small
    tokens = some_tokens(70)
    expected = expected_logits(checkpoint, tokens)
    assert np.abs(expected).max() > 0.1, "a model of zeros would pass any comparison"
    session = open_session(model)
    np.testing.assert_allclose(session.run([Chunk(0, tokens, 0, logits=70)]), expected, atol=1e-3)
    session.clear(0)
    for start_at, end in ((0, 7), (7, 8), (8, 50)):
        chunk = session.run([Chunk(0, tokens[start_at:end], start_at, logits=end - start_at)])
        np.testing.assert_allclose(chunk, expected[start_at:end], atol=1e-3)
    for position in range(50, 70):
        logits = session.run([Chunk(0, [tokens[position]], position)])
        np.testing.assert_allclose(logits[0], expected[position], atol=1e-3)


@pytest.mark.parametrize("deterministic", [False, True])
def test_rows_share_a_run_whatever_each_computes(small: tuple[Path, Path], deterministic: bool) -> None:
    """A next token, several at once, and parts of prompts whose logits nobody wants, with an idle slot between and
    after other tokens had been computed in their place: the logits of each are those it has alone."""
    checkpoint, model = small
    assert_rows_share_a_run(paged(model, slots=5), checkpoint, longer=50, deterministic=deterministic)


@pytest.mark.parametrize("variant", [CPU, NPU])
def test_a_deterministic_run_does_not_depend_on_who_else_is_in_it(mixed_package: Path, variant: str) -> None:
    """To the last bit, with activations at 8 bits and at 32: alone, beside others that decode, guess or read their
    prompts, and after a prompt that was cut otherwise."""
    package = Package.open(mixed_package, variant)
    accuracy = package.build.profile.quantization.int4.accuracy_level
    session = paged(package.serving_graph, slots=5, int8_activations=accuracy == 4)
    tokens = some_tokens(40)
    seen: set[bytes] = set()
    for cut in (2, 11, 30):
        session.run([Chunk(2, tokens[:cut], 0, logits=0)], deterministic=True)
        if cut < 30:
            session.run([Chunk(2, tokens[cut:30], cut, logits=0)], deterministic=True)
        for slot in (0, 1, 3, 4):
            session.run([Chunk(slot, tokens[:30], 0, logits=0)])
        one = Chunk(2, tokens[30:31], 30)
        seen.add(session.run([one], deterministic=True).tobytes())
        decoding = [Chunk(0, [7], 30), one, Chunk(3, [8], 30)]
        reading = [Chunk(1, tokens[30:], 30, logits=0), one]
        guessing = [Chunk(0, tokens[30:33], 30, logits=3), one, Chunk(3, [9], 30), Chunk(4, tokens[:9], 30)]
        for chunks, at in ((decoding, 1), (reading, 0), (guessing, 3)):
            seen.add(session.run(chunks, deterministic=True)[at].tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize("kv_dtype", ["float32", "float16"])
def test_a_copied_row_goes_on_as_its_source(small: tuple[Path, Path], kv_dtype: str) -> None:
    """From where the copy ends, in the middle of a block; and the type of the KV cache costs little."""
    checkpoint, model = small
    tokens = some_tokens(60)
    session = paged(model, slots=3, kv_dtype=kv_dtype)
    session.run([Chunk(0, tokens, 0, logits=0)])
    session.copy(0, 2, 45)
    copied = session.run([Chunk(2, tokens[45:], 45)])[0]
    expected = expected_logits(checkpoint, tokens)[-1]
    np.testing.assert_allclose(copied, expected, atol={"float32": 1e-3, "float16": 1e-2}[kv_dtype])


def test_cleared_rows_give_their_memory_back(mixed_package: Path) -> None:
    """All of a row, or what is behind the blocks that are kept, which then serve as before."""
    session = paged(Package.open(mixed_package, CPU).serving_graph, slots=8)
    tokens = some_tokens(512)
    session.run([Chunk(0, tokens, 0, logits=0)])
    session.run([Chunk(0, tokens[:64], 0, logits=0)])
    expected = session.run([Chunk(0, tokens[64:65], 64)]).copy()
    row_kb = 512 * session.spec.kv_bytes_per_token / 1024
    for slot in range(1, 8):
        session.copy(0, slot, 512)
    before = resident_kb()
    for slot in range(1, 8):
        session.clear(slot)
    assert before - resident_kb() > 6.5 * row_kb
    before = resident_kb()
    session.clear(0, 64)
    assert before - resident_kb() > 0.8 * row_kb
    np.testing.assert_array_equal(session.run([Chunk(0, tokens[64:65], 64)]), expected)


def test_one_row_can_be_gone_back_in(small: tuple[Path, Path]) -> None:
    """What was kept, or replaced by other tokens, counts; what was after it does not."""
    checkpoint, model = small
    tokens, others = some_tokens(40), some_tokens(40, seed=1)
    session = stateful(model)
    session.run([Chunk(0, tokens, 0)])
    session.clear(0, keep=20)
    mixed = [*tokens[:20], *others[20:30]]
    got = session.run([Chunk(0, others[20:30], 20)])[0]
    np.testing.assert_allclose(got, expected_logits(checkpoint, mixed)[-1], atol=1e-3)
    session.clear(0)
    session.run([Chunk(0, others[:30], 0, logits=0)])
    got = session.run([Chunk(0, others[30:], 30)])[0]
    np.testing.assert_allclose(got, expected_logits(checkpoint, others)[-1], atol=1e-3)


@pytest.mark.parametrize(("variant", "backend"), [(CPU, "PA"), (NPU, "SDPA")])
def test_greedy_tokens_are_those_of_openvino_genai(mixed_package: Path, variant: str, backend: str) -> None:
    """On the same IR, the same device and the same types, in both forms of the model; and they are the transcript that
    the build kept."""
    package = Package.open(mixed_package, variant)
    golden, profile = package.build.golden, package.build.profile
    session = open_openvino(package.serving_graph, profile, device="CPU", slots=1, context_tokens=512, threads=2)
    logits, ours = session.run([Chunk(0, golden.prompt_ids, 0)]), []
    while len(ours) < 64:
        ours.append(int(logits[0].argmax()))
        logits = session.run([Chunk(0, ours[-1:], len(golden.prompt_ids) + len(ours) - 1)])
    pipeline = openvino_genai.LLMPipeline(
        str(package.variant_dir),
        "CPU",
        ATTENTION_BACKEND=backend,
        INFERENCE_NUM_THREADS=2,
        INFERENCE_PRECISION_HINT="f32",
        KV_CACHE_PRECISION={"float32": "f32", "float16": "f16"}[profile.runtime.kv_cache.dtype],
        DYNAMIC_QUANTIZATION_GROUP_SIZE=32 if profile.quantization.int4.accuracy_level == 4 else 0,
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.do_sample, config.ignore_eos = 64, False, True
    theirs = pipeline.generate(ov.Tensor(np.array([golden.prompt_ids], np.int64)), config).tokens[0]
    assert ours == list(theirs)
    assert ours[: len(golden.greedy_ids)] == golden.greedy_ids


def test_a_device_that_is_not_there_is_refused(small: tuple[Path, Path]) -> None:
    """With what is there, and what to do; nothing else is taken in its place."""
    with pytest.raises(SessionError, match=r"NPU was asked for, but OpenVINO .* finds only CPU.*driver of the NPU"):
        stateful(small[1], device="NPU")


def test_variants_for_both_runtimes_share_a_package(mixed_package: Path) -> None:
    """Each opens, with its files checked; ONNX Runtime is told of its own only; memory and fidelity are as measured."""
    assert variants_of(mixed_package) == sorted([ORT, CPU, NPU])
    metadata = json.loads((mixed_package / "models/decoder/metadata.json").read_text())
    assert list(metadata["variants"]) == [ORT]
    for variant in (CPU, NPU):
        package = Package.open(mixed_package, variant)
        build = package.build
        files = {path.name for path in package.variant_dir.iterdir()}
        assert {"openvino_model.xml", "openvino_model.bin", "build.json"} <= files
        assert "openvino_config.json" not in files, "it has a path of the build host"
        assert (build.needs.provider, build.needs.onnxruntime_min) == ("OpenVINO", None)
        assert build.needs.openvino_min is not None
        assert build.memory.weights_bytes == package.serving_graph.with_suffix(".bin").stat().st_size
        geometry, itemsize = build.model, build.profile.kv_itemsize
        numbers = 2 * geometry.layers * geometry.kv_heads * geometry.head_dim
        assert build.memory.kv_bytes_per_token == numbers * itemsize
        assert build.fidelity is not None
        assert build.fidelity.mean_kld < 0.02


def test_the_same_inputs_give_the_same_bytes(build_cache: Path, tmp_path: Path) -> None:
    """In two folders, with nothing cached."""
    checkpoint = small_checkpoint("qwen2", build_cache / "small")
    one, other = (build_package("int4", NPU, cache=tmp_path / name, source=str(checkpoint)) for name in ("a", "b"))
    paths = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert paths == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert [path for path in paths if (one / path).read_bytes() != (other / path).read_bytes()] == []


def ask(target: str, question: str, deterministic: bool = True) -> str:
    options = Options(temperature=0.0, max_tokens=32, deterministic=deterministic)
    with Client(target) as client:
        return client.chat([("user", question)], options=options).text


def test_the_daemon_serves_many_rows_on_the_cpu(mixed_package: Path) -> None:
    """Several at once, each with the answer that it has alone."""
    with start(mixed_package, "--variant", CPU) as daemon, Client(daemon.target) as client:
        questions = ["What is the capital of France?", "Name a colour.", "What is 2 + 2?", "Say hello."]
        alone = [ask(daemon.target, question) for question in questions]
        assert all(alone)
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(ask, [daemon.target] * 4, questions))
        assert together == alone
        model = client.snapshot().models[0].model
        assert (model.provider_requested, model.provider) == ("OpenVINO (CPU)",) * 2


def test_a_package_for_the_npu_runs_on_the_cpu_only_when_told_to(mixed_package: Path) -> None:
    """Asked for and absent, the NPU is refused with that reason; on the CPU, telemetry says what runs in its place."""
    with start(mixed_package, "--variant", NPU, wait=False) as refused:
        assert refused.process.wait(timeout=60) == 5
        assert "NPU was asked for" in refused.log.read_text()
    with start(mixed_package, "--variant", NPU, "--device", "CPU") as daemon, Client(daemon.target) as client:
        assert "Paris" in ask(daemon.target, "What is the capital of France?")
        assert "Paris" in ask(daemon.target, "What is the capital of France? Answer in one word.")
        [loaded] = client.snapshot().models
        assert (loaded.model.provider_requested, loaded.model.provider) == ("OpenVINO (NPU)", "OpenVINO (CPU)")
        assert (loaded.engine.slots, loaded.engine.cached_prompt_tokens_total) == (1, 0)


def test_commands_of_the_guide_work(mixed_package: Path, build_cache: Path, tmp_path: Path) -> None:
    """One after the other in one empty folder, where each exits with 0."""
    with start(mixed_package, "--variant", CPU) as daemon:
        environment = {"EDGEQWEN_TARGET": daemon.target, "EDGEQWEN_CACHE": str(build_cache / "cache")}
        for command in blocks(OPENVINO_GUIDE, console=True):
            done = run(["bash", "-c", command], tmp_path, **environment)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
