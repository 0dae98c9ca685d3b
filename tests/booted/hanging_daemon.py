#!/opt/python/bin/python3 -E
"""edgeqwend with a model that hangs in its sixth run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

sys.path[:0] = ["/opt/src", "/opt/src/protos"]
sys.path.append("/opt/site")

from runtime.models import loading  # noqa: E402
from runtime.sessions.session import Chunk, Logits, Session  # noqa: E402


class Hanging:
    """A `Session` that runs five times."""

    def __init__(self, session: Session) -> None:
        self.spec = session.spec
        self._session = session
        self._left = 5

    def run(self, chunks: Sequence[Chunk], *, adapter: str | None = None, deterministic: bool = False) -> Logits:
        self._left -= 1
        if self._left < 0:
            threading.Event().wait()
        return self._session.run(chunks, adapter=adapter, deterministic=deterministic)

    def copy(self, source: int, target: int, tokens: int) -> None:
        self._session.copy(source, target, tokens)

    def clear(self, slot: int, keep: int = 0) -> None:
        self._session.clear(slot, keep)


def main() -> None:
    load = loading.load_session
    loading.load_session = lambda *arguments, **named: Hanging(load(*arguments, **named))
    from runtime.daemon import main as run

    run()


if __name__ == "__main__":
    main()
