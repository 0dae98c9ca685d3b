"""Where tritonclient is not installed, as on a device, its tests are not collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("tritonclient") else ["test_kserve_clients.py"]
