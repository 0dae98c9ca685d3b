"""The main job end to end: compile a checkpoint for this machine, serve it, stream one answer, say how fast.

Run by `make demo`, with the interpreter of an environment that has the `toolchain` extra.
"""

from __future__ import annotations

import argparse
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeqwen.client import Client

QUESTION = "What is the capital of France?"
PROFILES = {"x86_64": "generic-x86_64", "aarch64": "generic-arm64"}
BIN = Path(sys.executable).parent
READY_TIMEOUT_S = 60.0
EXIT_TIMEOUT_S = 40.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="reference", help="hub id, local folder, GGUF file, or reference")
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder for the package")
    parser.add_argument("--question", default=QUESTION)
    arguments = parser.parse_args()
    package = compile_package(arguments.model, arguments.output)
    with serve(package, log=arguments.output / "edgeqwend.log") as target, Client(target) as client:
        ask(client, arguments.question)


def compile_package(model: str, output: Path) -> Path:
    """Builds `model` at INT4 for this machine, from its cache where it can; returns the package's folder."""
    machine = platform.machine()
    if machine not in PROFILES:
        sys.exit(f"no generic profile for {machine}; there are some for {', '.join(PROFILES)}")
    folder = output / Path(model).name
    step(f"compiling {model} for {PROFILES[machine]} at int4")
    command = [BIN / "edgeqwen-compile", "build", model, "--profile", PROFILES[machine]]
    built = subprocess.run([*command, "--precision", "int4", "-o", folder], check=False)
    if built.returncode != 0:
        sys.exit(built.returncode)
    [package] = folder.glob("*.ortpackage")
    return package


@contextmanager
def serve(package: Path, log: Path) -> Iterator[str]:
    """Runs the daemon on a socket of its own until the block ends; it must then leave with 0."""
    # /tmp and not TMPDIR: the path of a unix socket has room for about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="edgeqwen-", dir="/tmp") as folder, log.open("wb") as log_file:
        target = f"unix:{folder}/edgeqwend.sock"
        step(f"serving {package} on {target}")
        command = [BIN / "edgeqwend", "--package", package, "--listen", target]
        started = time.monotonic()
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log_file, stdout=log_file)
        try:
            wait_until_serving(target, daemon, log)
            step(f"ready after {time.monotonic() - started:.2f} s")
            yield target
        finally:
            daemon.send_signal(signal.SIGTERM)
            status = daemon.wait(EXIT_TIMEOUT_S)
    if status != 0:
        sys.exit(f"the daemon left with {status} after SIGTERM; its log is {log}")
    step("the daemon stopped cleanly")


def wait_until_serving(target: str, daemon: subprocess.Popen[bytes], log: Path) -> None:
    raise NotImplementedError


def ask(client: Client, question: str) -> None:
    """Streams the answer, then prints what it took."""
    raise NotImplementedError


def step(text: str) -> None:
    print(f"--- {text}", flush=True)


if __name__ == "__main__":
    main()
