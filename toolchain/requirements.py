"""What a build host needs to build for each execution provider. The one table of it: a backend adds its row here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BuildRequirement:
    """What building for an execution provider takes.

    Args:
        extra: of edgeqwen, whose requirements must be installed in the versions that pyproject.toml has.
        hosts: architectures of build hosts that it works on, as `uname -m` says them; empty: any.
    """

    extra: str
    hosts: tuple[str, ...] = ()


CPU = "CPUExecutionProvider"

REQUIREMENTS: Mapping[str, BuildRequirement] = {
    CPU: BuildRequirement("toolchain"),
    "CUDAExecutionProvider": BuildRequirement("toolchain"),
    "QNNExecutionProvider": BuildRequirement("qnn", hosts=("x86_64",)),
    "OpenVINO": BuildRequirement("openvino-toolchain"),
}
"""By execution provider. Where a provider has no row, no package can be built for it."""

MEMORY_BYTES = 2_500_000_000
"""What a build of the reference checkpoint took at most, 2.4 GB that no file backs, with torch and Olive loaded: INT8,
when channels are evened out (2026-11-27). Larger ones need more."""

MEMORY_BYTES_AT_LEAST, MEMORY_BYTES_PER_PARAMETER = 900_000_000, 12
"""What others take, about: 0.86 GB with hardly a parameter, and the above with 135 million."""

DISK_BYTES_PER_PARAMETER = 4
"""What cache and scratch folder hold at most during an INT8 build, which takes the least. Others need more."""

DISK_BYTES = 3 << 30
"""What it left in the cache and its scratch folder, 1.3 GB for each precision, and a package. Larger ones need more."""
