"""The main job end to end: compile a checkpoint for this machine, serve it, stream one answer, say how fast.

`make demo` runs it with an interpreter whose environment has the `toolchain` extra.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeqwen.client import Client, ClientError, Delta, Finished, Options, ServerUnavailable

PROFILES = {"x86_64": "generic-x86_64", "aarch64": "generic-arm64"}
PRECISION = "int4"
GREEDY = Options(temperature=0.0, max_tokens=256)
BIN = Path(sys.executable).parent  # console scripts of this environment
READY_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 40.0  # the daemon's own limit for draining is 30 s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reference", help="hub id, local folder, GGUF file, or reference")
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder for the package")
    parser.add_argument("--cache", type=Path, default=Path("build/cache"), help="what a second run need not make")
    parser.add_argument("--question", default="How many days are in a week?")
    arguments = parser.parse_args()
    package = compile_package(arguments.model, arguments.output, arguments.cache)
    with serve(package, log=arguments.output / "edgeqwend.log") as client:
        ask(client, arguments.question)


def compile_package(model: str, output: Path, cache: Path) -> Path:
    """Builds `model` at INT4 for this machine, from the cache what is there; returns the package's folder."""
    machine = platform.machine()
    if machine not in PROFILES:
        sys.exit(f"there is no generic profile for {machine}, only for {' and '.join(PROFILES)}")
    heading(f"compiling {model} for {PROFILES[machine]} at {PRECISION}")
    flags = ["--profile", PROFILES[machine], "--precision", PRECISION, "--cache", str(cache), "--output", str(output)]
    command = [str(BIN / "edgeqwen-compile"), "build", model, *flags, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)  # the compiler has said why
    result = json.loads(done.stdout)
    [variant] = result["variants"]
    print(
        f"{result['package']}: {variant['weights_bytes'] / 1e6:.1f} MB of weights,"
        f" KLD {variant['mean_kld']} to the float checkpoint, same top token {variant['top1_agreement']:.1%}"
    )
    return Path(result["package"])


@contextmanager
def serve(package: Path, log: Path) -> Iterator[Client]:
    """Runs the daemon on a socket of its own until the block ends; it must then leave with 0."""
    # In /tmp whatever TMPDIR says: the path of a unix socket has room for about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="edgeqwen-", dir="/tmp") as folder, log.open("wb") as log_file:
        target = f"unix:{folder}/edgeqwend.sock"
        heading(f"serving it on {target}")
        command = [str(BIN / "edgeqwend"), "--package", str(package), "--listen", target]
        started_s = time.monotonic()
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log_file, stderr=subprocess.STDOUT)
        try:
            with Client(target) as client:
                wait_until_serving(client, daemon, log)
                ready_s = time.monotonic() - started_s - client.snapshot().uptime_s
                print(f"ready {ready_s:.2f} s after its start")
                yield client
        finally:
            status = stop(daemon)
    if status != 0:
        sys.exit(f"the daemon left with {status} after SIGTERM; its log is {log}")
    print("the daemon stopped, exit status 0")


def wait_until_serving(client: Client, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once the daemon's health is SERVING; exits with the end of its log if that does not come."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while daemon.poll() is None and time.monotonic() < deadline_s:
        try:
            return client.wait_until_serving(timeout_s=1.0)
        except ServerUnavailable:
            continue
    last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    state = "not serving" if daemon.returncode is None else f"gone with exit status {daemon.returncode}"
    sys.exit(f"{last}\nthe daemon is {state}; its log is {log}")


def stop(daemon: subprocess.Popen[bytes]) -> int:
    """SIGTERM, then the exit status; negative if it had to be killed."""
    daemon.terminate()
    try:
        return daemon.wait(EXIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        return daemon.wait()


def ask(client: Client, question: str) -> None:
    """Streams the answer as it comes, then prints what it took."""
    heading(question)
    finished = None
    for event in client.generate(messages=[("user", question)], options=GREEDY):
        if isinstance(event, Delta):
            print(event.text, end="", flush=True)
        elif isinstance(event, Finished):
            finished = event
    print()
    assert finished is not None, "a stream ends with Finished or an error"
    snapshot = client.snapshot()
    heading(f"{snapshot.models[0].model.name} on {snapshot.models[0].model.provider}, {snapshot.machine.cores} cores")
    for what, rate, tokens in (
        ("generation", finished.decode_tokens_per_second, finished.completion_tokens),
        ("prompt", finished.prefill_tokens_per_second, finished.prompt_tokens),
    ):
        print(f"{what:20}{rate:.1f} tokens/s ({tokens} tokens)")
    print(f"time to first token {finished.time_to_first_token_ms:.0f} ms")
    resident, weights = snapshot.process.rss_bytes / 1e6, snapshot.models[0].model.weights_bytes / 1e6
    print(f"memory              {resident:.0f} MB resident, {weights:.0f} MB of it weights")


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except ClientError as error:
        sys.exit(f"demo: {error}")
