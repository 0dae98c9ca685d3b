"""Where the extra `http` or a client of it is not installed, as on a device, these are not collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if all(map(find_spec, ("httpx2", "openai", "starlette", "uvicorn"))) else ["test_*.py"]
