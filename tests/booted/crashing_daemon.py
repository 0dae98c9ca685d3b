#!/opt/python/bin/python3 -E
"""edgeqwend that a package of version 2.0.0 takes with it while it is loaded, as a wrong instruction does."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

sys.path[:0] = ["/opt/src", "/opt/src/protos"]
sys.path.append("/opt/site")

from runtime.models import loading  # noqa: E402
from runtime.package import Package  # noqa: E402
from runtime.sessions.session import Session  # noqa: E402


def main() -> None:
    load = loading.load_session

    def load_session(package: Package, *arguments: Any) -> Session:
        if package.build.version == "2.0.0":
            os.kill(os.getpid(), signal.SIGILL)
        return load(package, *arguments)

    loading.load_session = load_session
    from runtime.daemon import main as run

    run()


if __name__ == "__main__":
    main()
