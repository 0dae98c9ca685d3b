"""Packages for a Qualcomm NPU, compiled and run in the simulator. They need the extra `qnn`: `make test-qnn`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from integration.daemons import start
from tiny import Architecture, make_tiny

from edgeqwen.client import Client, Options
from runtime.board.cpu import read_cpu
from runtime.board.localsettings import LocalSettingsFile
from runtime.configuration.config import Config
from runtime.configuration.settings import decide
from runtime.models.loading import load_session
from runtime.package import Package
from runtime.sessions.session import Chunk, Session

pytestmark = [pytest.mark.slow, pytest.mark.qnn]

PROFILE = "qualcomm-qcs6490"
BUILDS: dict[Architecture, str] = {"qwen2": "int8", "qwen3": "int4"}


def build(checkpoint: Path, precision: str, cache: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "toolchain.cli", "build", str(checkpoint), "--profile", PROFILE]
    done = subprocess.run(
        [*command, "--precision", precision, "--cache", str(cache), "-o", str(out), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(json.loads(done.stdout)["package"])


@pytest.fixture(scope="module", params=BUILDS)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Of a tiny random model: qkv biases and INT8, or q and k norms and INT4."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = make_tiny(folder / "tiny", request.param)
    return Package.open(build(checkpoint, BUILDS[request.param], folder / "cache", folder / "out"))


def open_session(package: Package) -> Session:
    """As the daemon opens it."""
    config = Config.model_validate({"package": package.root})
    file = LocalSettingsFile(package.root, package.build_digest, read_cpu())
    return load_session(package, replace(decide(config, package, file, None, cores=2), context_tokens=256))


def test_another_folder_makes_the_same_package(package: Package, tmp_path: Path) -> None:
    """To the last byte, what the vendor's compiler wrote included."""
    checkpoint = package.root.parents[1] / "tiny"
    again = Package.open(build(checkpoint, package.build.precision, tmp_path / "cache", tmp_path / "out"))
    assert again.build_digest == package.build_digest


def test_the_build_says_what_the_cpu_keeps_and_how_the_npu_rounds(package: Package) -> None:
    """Attention of both layers, embedding and head; the simulator computes what the same graph gives on the CPU."""
    npu = package.build.npu
    assert npu is not None
    assert npu.on_cpu["GroupQueryAttention"] == package.build.model.layers == 2
    assert npu.on_cpu.keys() == {
        *("DequantizeLinear", "GatherBlockQuantized", "GroupQueryAttention", "MatMulNBits", "QuantizeLinear")
    }
    assert npu.agreement.top1_agreement > 0.9
    assert npu.agreement.mean_kld < 0.01
    assert package.build.needs.arch == "aarch64"


def test_a_session_answers_as_the_build_did(package: Package) -> None:
    """To the last token, in whatever chunks the prompt comes, and after it was gone back to."""
    golden = package.build.golden
    session = open_session(package)
    assert session.spec.provider == "QNNExecutionProvider (HTP simulator)"
    prompt = golden.prompt_ids
    for cuts in ([len(prompt)], [1, 3, len(prompt)], [2, len(prompt) - 1, len(prompt)]):
        start = 0
        for end in cuts:
            logits = session.run([Chunk(0, prompt[start:end], start)])
            start = end
        assert int(logits[0].argmax()) == golden.greedy_ids[0]
    answer = golden.greedy_ids[:1]
    while len(answer) < len(golden.greedy_ids):
        at = len(prompt) + len(answer) - 1
        answer.append(int(session.run([Chunk(0, answer[-1:], at)])[0].argmax()))
    assert answer == golden.greedy_ids


def test_the_daemon_serves_it_only_when_told_to_simulate(package: Package, tmp_path: Path) -> None:
    """And then says so; a request gets its answer as from any other package."""
    command = [sys.executable, "-m", "runtime.daemon", "--package", str(package.root)]
    command += ["--listen", f"unix:{tmp_path}/d.sock"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 4
    assert "is for aarch64, but this machine is x86_64" in refused.stderr
    assert "--simulate" in refused.stderr
    with start(package.root, "--simulate") as daemon, Client(daemon.target) as client:
        model = client.snapshot().models[0].model
        assert model.provider == "QNNExecutionProvider (HTP simulator)"
        assert model.provider_requested == "QNNExecutionProvider"
        answers = [
            client.complete("The pump", options=Options(max_tokens=4, temperature=0.0, ignore_eos=True))
            for _ in range(2)
        ]
        assert answers[0].token_ids == answers[1].token_ids
        assert len(answers[0].token_ids) == 4
