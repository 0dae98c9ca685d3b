"""The environment of Olive's processes. Imported only there, before anything else: no hub, no telemetry, then Olive."""

from __future__ import annotations

import os

# A build that ends before Olive is loaded keeps nobody waiting for the end of its output. Jobs have their own.
_nowhere = os.open(os.devnull, os.O_WRONLY)
os.dup2(_nowhere, 1)
os.dup2(_nowhere, 2)

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "CI": "1",  # without it, Olive 0.13 waits ten seconds for a heartbeat it queued although told not to
    "OLIVE_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "NNCF_CI": "1",  # what keeps NNCF from sending its own
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.pop("TQDM_DISABLE", None)  # the bars are read

import olive.cli.launcher  # noqa: E402, F401
