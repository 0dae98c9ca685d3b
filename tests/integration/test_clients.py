"""Clients that others wrote, at a real daemon with a real model; the commands of the guide on them; the examples."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest
import tritonclient.grpc as triton
from integration.daemons import Daemon, start
from integration.test_docs import CLIENTS_GUIDE, REPO, blocks, run
from openai import OpenAI

from edgeqwen.client import Client, Options

pytestmark = pytest.mark.slow

SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
QUESTION = "What is the capital of France?"


@dataclass(frozen=True)
class Served:
    daemon: Daemon
    http: str

    def openai(self) -> OpenAI:
        http = httpx2.Client(transport=httpx2.HTTPTransport(uds=self.http), timeout=60)
        return OpenAI(base_url="http://localhost/v1", api_key="none", http_client=http, max_retries=0)


@pytest.fixture(scope="module")
def served(int4_package: Path) -> Iterator[Served]:
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:  # a socket's path must be short
        http = f"{folder}/http.sock"
        with start(int4_package, "--http-listen", f"unix:{http}") as daemon:
            yield Served(daemon, http)


def test_commands_of_the_guide_work(served: Served, tmp_path: Path, build_cache: Path) -> None:
    """One after the other in a copy of the examples, where each exits with 0; those that ask print the answer."""
    if shutil.which("npm") is None or shutil.which("curl") is None:
        pytest.skip("needs npm and curl")
    shutil.copytree(REPO / "examples", tmp_path / "examples")
    (tmp_path / "protos").symlink_to(REPO / "protos")
    environment = {
        "EDGEQWEN_TARGET": served.daemon.target,
        "EDGEQWEN_HTTP": served.http,
        # A registry that does not answer is asked again, not waited for, and only once for what is here already.
        "npm_config_cache": str(build_cache / "npm"),
        "npm_config_prefer_offline": "true",
        "npm_config_fetch_timeout": "20000",
        "npm_config_fetch_retries": "2",
    }
    if SYSTEM_CERTIFICATES.is_file():  # npm has its own, and a network may have an authority that only the system knows
        environment["NODE_EXTRA_CA_CERTS"] = str(SYSTEM_CERTIFICATES)
    for command in blocks(CLIENTS_GUIDE, console=True):
        done = run(["bash", "-c", command], tmp_path, **environment)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert QUESTION not in command or "Paris" in done.stdout, command


@pytest.mark.parametrize("example", ["python/chat.py", "python/plain_grpc.py"])
def test_examples_say_what_went_wrong(example: str, tmp_path: Path) -> None:
    """Without a daemon: one line and exit status 1."""
    done = run(["python", str(REPO / "examples" / example)], tmp_path, EDGEQWEN_TARGET=f"unix:{tmp_path}/none.sock")
    assert done.returncode == 1
    assert done.stderr.startswith(f"{Path(example).name}: ")
    assert done.stderr.count("\n") == 1


def test_every_client_gets_the_same_answer(served: Served) -> None:
    """Greedy and alone, whichever protocol the question comes by."""
    with Client(served.daemon.target, scope=b"") as client:
        ours = client.chat([("user", QUESTION)], options=Options(temperature=0, max_tokens=16)).text
    assert "Paris" in ours
    messages = [{"role": "user", "content": QUESTION}]
    with served.openai() as client:
        [model] = client.models.list()
        answer = client.chat.completions.create(model=model.id, messages=messages, temperature=0, max_tokens=16)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == ours
    with triton.InferenceServerClient(served.daemon.target) as client:
        tensor = triton.InferInput("messages", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([json.dumps(messages).encode()], dtype=np.object_))
        result = client.infer(model.id, [tensor], parameters={"temperature": 0.0, "max_tokens": 16})
    assert result.as_numpy("text_output")[0].decode() == ours


def test_a_stream_over_http_ends_before_the_daemon_does(int4_package: Path, tmp_path: Path) -> None:
    """SIGTERM in the middle of an answer: its stream goes on to its end, new requests are 503, the exit status is 0."""
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:
        http = f"{folder}/http.sock"
        with start(int4_package, "--no-verify", "--http-listen", f"unix:{http}") as daemon:
            with Served(daemon, http).openai() as client:
                stream = client.completions.create(
                    model="", prompt="One, two,", max_tokens=60, stream=True, extra_body={"ignore_eos": True}
                )
                next(stream)
                daemon.process.send_signal(signal.SIGTERM)
                *_, last = list(stream)
            assert last.choices[0].finish_reason == "length"
            assert daemon.process.wait(30) == 0
            assert not Path(http).exists()
