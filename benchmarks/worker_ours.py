"""A worker (see worker.py) with our engine in its process, or with a daemon and its clients here."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version
from pathlib import Path

from engines import InProcess, ThroughGrpc, daemon
from worker import own_stdout, work

from runtime.package import Package


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--grpc", action="store_true")
    options = parser.parse_args()
    pipe = own_stdout()
    versions = {name: version(name) for name in ("edgeqwen", "onnxruntime", "grpcio", "numpy")}
    versions |= {"Python": platform.python_version()}
    if options.grpc:
        with daemon(options.package, options.threads, "--no-speculate") as served:
            work(ThroughGrpc(served.target), pipe, versions=versions, pid=served.pid, ready_s=served.ready_s)
        return
    engine = InProcess(Package.open(options.package), options.threads)
    work(engine, pipe, versions=versions)
    engine.close()


if __name__ == "__main__":
    main()
