"""Adapters that were trained here, against transformers and PEFT in float32."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from integration.compiler import compile
from integration.daemons import start
from lora import reference_logits, train_adapter
from tiny import make_tiny

from edgeqwen.client import Client, InvalidRequest, Options
from edgeqwen.messages import completions_of
from runtime.engine.engine import Engine
from runtime.engine.sequence import Delta, Event, Request
from runtime.engine.tokenizer import Tokenizer
from runtime.errors import AdapterError
from runtime.package import Package
from runtime.sessions.adapters import LORA_A, LORA_B, find_adapters, write_adapter
from runtime.sessions.ort_session import OrtSession
from runtime.sessions.session import Chunk

pytestmark = pytest.mark.slow

ATTENTION = ("q_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj", "k_proj")
BESIDE = ("v_proj", "down_proj")
PROMPT = list(range(60, 90))
WHOLE = Chunk(0, PROMPT, 0, logits=len(PROMPT))
TOKENS = 24


@dataclass(frozen=True)
class Made:
    """A checkpoint and its adapters by name, as PEFT saved them, and a package with the first two."""

    checkpoint: Path
    adapters: dict[str | None, Path | None]
    package: Path
    cache: Path


def compiled(*arguments: object, status: int = 0) -> str:
    """Runs `edgeqwen-compile`; returns what it wrote to stderr."""
    done = compile(*arguments)
    assert done.exit_code == status, done.stderr
    return done.stderr


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """At float32, so that nothing but the adapters makes a difference."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = make_tiny(folder / "tiny", request.param)
    adapters: dict[str | None, Path | None] = {
        None: None,
        "first": train_adapter(checkpoint, folder / "a", range(100, 110), targets=ATTENTION),
        "second": train_adapter(checkpoint, folder / "b", range(200, 220), targets=MLP, rank=3, use_rslora=True),
        "beside": train_adapter(checkpoint, folder / "c", range(150, 153), targets=BESIDE, layers_to_transform=[1]),
    }
    named = [f"--adapter={name}={adapters[name]}" for name in ("first", "second")]
    build = ("build", checkpoint, "--profile", "generic-x86_64", "--precision", "float32", "--cache", folder / "cache")
    compiled(*build, *named, "-o", folder / "out")
    [package] = (folder / "out").glob("*.ortpackage")
    compiled("adapter", adapters["beside"], "--package", package, "-o", folder / "beside" / "beside.onnx_adapter")
    return Made(checkpoint, adapters, package, folder / "cache")


def open_session(made: Made, slots: int = 1) -> OrtSession:
    package = Package.open(made.package)
    adapters = find_adapters(package, made.package.parent.parent / "beside")
    assert package.adapter_graph is not None
    return OrtSession(package.adapter_graph, slots=slots, context_tokens=256, threads=2, adapters=adapters)


def test_logits_are_those_of_peft(made: Made) -> None:
    """With each adapter and with none, in chunks and decoding; and each adapter makes another model of it."""
    session = open_session(made)
    plain = reference_logits(made.checkpoint, None, PROMPT).numpy()
    for name, folder in made.adapters.items():
        expected = reference_logits(made.checkpoint, folder, PROMPT).numpy()
        assert name is None or np.abs(expected - plain).max() > 1
        parts = ((PROMPT[start:end], start) for start, end in ((0, 20), (20, 29), (29, 30)))
        chunks = (Chunk(0, tokens, start, logits=len(tokens)) for tokens, start in parts)
        got = [session.run([chunk], adapter=name).copy() for chunk in chunks]
        np.testing.assert_allclose(np.concatenate(got), expected, atol=2e-3)


def test_without_an_adapter_the_graph_gives_what_the_plain_one_gives(made: Made) -> None:
    """To the last bit."""
    plain = OrtSession(Package.open(made.package).serving_graph, slots=1, context_tokens=256, threads=2)
    expected = plain.run([WHOLE]).copy()
    assert np.array_equal(open_session(made).run([WHOLE]), expected)


def test_requests_with_all_adapters_run_at_once(made: Made) -> None:
    """Two of each, in one engine and in one scope: the answer of each is the greedy one of its own model."""
    package = Package.open(made.package)
    engine = Engine(
        open_session(made, slots=12),
        Tokenizer.from_file(package.tokenizer_file),
        eos_token_ids=frozenset(),
        queue_limit=8,
        prefill_chunk_tokens=16,
        kv_budget_tokens=4096,
        max_running=8,
    )
    said: list[tuple[str | None, tuple[int, ...], list[int]]] = []
    for skipped in (0, 5):
        for name in made.adapters:
            said.append((name, tuple(PROMPT[skipped:]), []))
            request = Request(said[-1][1], TOKENS, scope=b"one scope", adapter=name)
            engine.submit(request, partial(_keep_tokens, said[-1][2]))
    while not engine.idle:
        engine.step()
    for name, prompt, answer in said:
        logits = reference_logits(made.checkpoint, made.adapters[name], [*prompt, *answer])
        assert answer == logits[len(prompt) - 1 : -1].argmax(-1).tolist(), name
    assert len({tuple(answer) for _, _, answer in said}) > len(said) // 2


def _keep_tokens(said: list[int], event: Event) -> None:
    said.extend(event.token_ids if isinstance(event, Delta) else ())


def test_the_daemon_answers_with_the_adapter_that_a_request_names(made: Made) -> None:
    """The package's and one that lies beside it; a name that is none is refused with those there are."""
    options = {name: Options(max_tokens=TOKENS, temperature=0, ignore_eos=True, adapter=name) for name in made.adapters}
    beside = str(made.package.parent.parent / "beside")
    with start(made.package, "--adapters-dir", beside) as daemon, Client(daemon.target) as client:
        assert list(client.snapshot().models[0].model.adapters) == ["beside", "first", "second"]
        streams = {name: client.generate(token_ids=PROMPT, options=options[name]) for name in made.adapters}
        for name, events in streams.items():
            answer = list(completions_of(events)[0].token_ids)
            logits = reference_logits(made.checkpoint, made.adapters[name], [*PROMPT, *answer])
            assert answer == logits[len(PROMPT) - 1 : -1].argmax(-1).tolist(), name
        with pytest.raises(InvalidRequest, match="one of those there are: beside, first, second"):
            client.complete("x", options=Options(adapter="third"))


@pytest.mark.parametrize("made", ["qwen2"], indirect=True)
def test_what_cannot_stand_apart_can_be_merged(made: Made, tmp_path: Path) -> None:
    """DoRA scales the weights themselves. Merged, the model is that of PEFT, its name and source say what is in it, and
    it takes no adapters; apart, it is refused before anything is built."""
    folder = train_adapter(made.checkpoint, tmp_path / "dora", range(100, 110), targets=ATTENTION, use_dora=True)
    flags = ("--profile", "generic-x86_64", "--precision", "float32", "--cache", made.cache, "-o", tmp_path / "out")
    refused = compiled("build", made.checkpoint, "--adapter", f"dora={folder}", *flags, status=4)
    assert "use_dora is set" in refused.splitlines()[-1]
    compiled("build", made.checkpoint, "--merge-adapter", folder, *flags)
    package = Package.open(tmp_path / "out" / "tiny-dora-float32.ortpackage")
    assert (package.build.source.id, package.adapter_graph) == ("tiny+dora", None)
    session = OrtSession(package.serving_graph, slots=1, context_tokens=256, threads=2)
    expected = reference_logits(made.checkpoint, folder, PROMPT).numpy()
    np.testing.assert_allclose(session.run([WHOLE]), expected, atol=2e-3)


@pytest.mark.parametrize("made", ["qwen2"], indirect=True)
def test_quantized_weights_take_adapters_too(made: Made, tmp_path: Path) -> None:
    """With int8 weights, evened out before, and an int8 KV cache the adapter costs no more fidelity than the model does
    without. What is converted for this model is refused by one whose channels are as they were, and the other way."""
    flags = ("--profile", "generic-arm64", "--precision", "int8", "--cache", made.cache, "-o", tmp_path)
    compiled("build", made.checkpoint, "--adapter", f"first={made.adapters['first']}", *flags)
    package = Package.open(tmp_path / "tiny-int8.ortpackage")
    build = package.build
    assert build.adapter_targets == list(ATTENTION)
    assert build.fidelity is not None
    fidelity = build.adapters["first"].fidelity
    assert fidelity is not None
    assert fidelity.mean_kld < 2 * build.fidelity.mean_kld + 0.01
    for one, other in ((package, Package.open(made.package)), (Package.open(made.package), package)):
        later = tmp_path / one.root.stem / "later.onnx_adapter"
        compiled("adapter", made.adapters["first"], "--package", one.root, "-o", later)
        assert [adapter.name for adapter in find_adapters(one, later.parent)] == sorted([*one.build.adapters, "later"])
        with pytest.raises(AdapterError, match="made for another model"):
            find_adapters(other, later.parent)


def test_an_adapter_that_the_graph_cannot_take_is_refused(made: Made, tmp_path: Path) -> None:
    """Before the model serves: by the size of a matrix, and by a place that the graph has not."""
    package = Package.open(made.package)
    down, up = np.ones((32, 2), np.float32), np.ones((2, 64), np.float32)
    for site, words in (("model.layers.0.attn.o_proj", "does not fit"), ("model.layers.7.attn.o_proj", "does not let")):
        file = tmp_path / "wrong.onnx_adapter"
        write_adapter(file, {site + LORA_A: down, site + LORA_B: up}, package.adapter_base)
        assert package.adapter_graph is not None
        with pytest.raises(AdapterError, match=words):
            OrtSession(
                package.adapter_graph,
                slots=1,
                context_tokens=64,
                threads=1,
                adapters=find_adapters(package, tmp_path),
            )
