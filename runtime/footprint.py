"""The memory that a model takes on a device, as a sum: weights, KV cache, and all else of the daemon. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .profile import Profile

BUFFERS_BYTES = 150_000_000
"""What the daemon takes beside weights and KV cache, for which docs/deploying.md asks: Python, the libraries, and the
scratch memory of a step. With 374.1 MB of weights it was 111 MB when ready and 133 MB after work, the KV in use
included (docs/benchmarks/README.md, "Decode, in process and through gRPC")."""

CUDA_BUFFERS_BYTES = 940_000_000
"""The same where a GPU computes: of 1.8 GB on an H200, what is neither weights nor KV (docs/adr/0016-cuda.md)."""

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Z]*)")


@dataclass(frozen=True)
class Footprint:
    """What is resident when all rows are full.

    Args:
        context_tokens: of each row, prompt and answer together.
        kv_limit_bytes: the profile's budget for the KV cache, which the daemon never exceeds.
    """

    weights_bytes: int
    kv_bytes_per_token: int
    context_tokens: int
    rows: int
    kv_limit_bytes: int
    buffers_bytes: int

    @property
    def kv_bytes(self) -> int:
        return min(self.kv_bytes_per_token * self.context_tokens * self.rows, self.kv_limit_bytes)

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.buffers_bytes

    def __str__(self) -> str:
        weights, kv, buffers = map(megabytes, (self.weights_bytes, self.kv_bytes, self.buffers_bytes))
        rows = f"{self.rows} row{'s' if self.rows > 1 else ''}"
        product = f"{self.kv_bytes_per_token} B a token x {self.context_tokens} tokens x {rows}"
        if self.kv_bytes < self.kv_bytes_per_token * self.context_tokens * self.rows:
            product += ", which the profile's budget limits"
        return f"weights {weights} + KV {kv} ({product}) + buffers {buffers} = {megabytes(self.total_bytes)}"


def footprint_of(profile: Profile, weights_bytes: int, kv_bytes_per_token: int, longest_tokens: int) -> Footprint:
    """Of a model in the runtime settings of `profile`, whose contexts are at most `longest_tokens` long."""
    runtime = profile.runtime
    return Footprint(
        weights_bytes=weights_bytes,
        kv_bytes_per_token=kv_bytes_per_token,
        context_tokens=min(runtime.context_tokens, longest_tokens),
        rows=runtime.slots,
        kv_limit_bytes=runtime.kv_cache.budget_mb << 20,
        buffers_bytes=CUDA_BUFFERS_BYTES if profile.execution.backend == "cuda" else BUFFERS_BYTES,
    )


def megabytes(size: int) -> str:
    """`105.9 MB`, in millions of bytes."""
    return f"{size / 1e6:.1f} MB"


def parse_size(text: str) -> int:
    """Bytes of `110MB`, `1.5 GiB` or `64000`. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None or found[2] not in _UNITS or not (size := int(float(found[1]) * _UNITS[found[2]])):
        raise ValueError(f"must be a size such as 110MB, 1.5GB or 1GiB (got {text!r})")
    return size
