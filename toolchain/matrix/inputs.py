"""A key of all that a package is made from: while it stays, the package that is there need not be built again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from runtime.package import file_digest
from runtime.presets import presets_json

from ..build import Found
from .plan import Job


def inputs_key(job: Job, found: Found, tools: Mapping[str, str]) -> str:
    """SHA-256 in hex, over the contents of what `job` names, its settings, and the versions of `tools`."""
    checkpoint = found.checkpoint
    inputs = {
        "checkpoint": [checkpoint.name, checkpoint.kind, checkpoint.id, checkpoint.revision, checkpoint.digest],
        "precision": job.precision,
        "profiles": [profile.digest for profile in job.profiles],
        "version": job.version,
        "presets": presets_json(job.presets),
        "calibration": job.calibration and file_digest(job.calibration),
        "adapters": {name: [adapter.id, adapter.digest] for name, adapter in found.peft.items()},
        "adapter_targets": job.adapter_targets,
        "exporter": job.exporter,
        "allow_low_fidelity": job.allow_low_fidelity,
        "tools": dict(tools),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
