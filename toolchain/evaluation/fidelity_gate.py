"""The fidelity gate: how far a package may be from the float checkpoint, by its profile, to be written."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import BuildError
from runtime.package import Build


def above_gate(build: Build) -> list[str]:
    """What of a variant is above its profile's gate, in words: the model, and each of its adapters."""
    gate = build.profile.quantization.max_kld(build.precision)
    if gate is None:
        return []
    measured = {"": build.fidelity}
    measured |= {f" with the adapter {name}": adapter.fidelity for name, adapter in build.adapters.items()}
    return [
        f"mean KLD {fidelity.mean_kld:.4f}{which} on {fidelity.text} text is above the profile's gate of {gate:g}"
        for which, fidelity in measured.items()
        if fidelity and not fidelity.mean_kld <= gate  # nan is above any
    ]


def require_fidelity(builds: Sequence[Build]) -> None:
    """Raises BuildError that names everything above its gate."""
    faults = [f"{build.variant}: {fault}" for build in builds for fault in above_gate(build)]
    if faults:
        raise BuildError(
            f"no package was written: {'; '.join(faults)}; build at a higher precision, change the profile's"
            " quantization (its max_kld is the gate), or accept it with --allow-low-fidelity"
        )
