"""`edgeqwen detect`, an entry point `edgeqwen.commands` of pyproject.toml.

Loaded also where only the client is installed: what the runtime needs is imported when the command runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import Fault, ProfileError
from .one_line import one_line_errors

if TYPE_CHECKING:
    from .board.detect import Detected, Match
    from .board.machine import Machine

_COMPUTES = ("03", "0b", "12", "1180")  # PCI classes: graphics, processors, accelerators, signal processing


@click.command(
    epilog="""\b
Examples:
  edgeqwen detect
  edgeqwen detect --profile ./my-board.yaml
  edgeqwen-compile build reference --profile "$(edgeqwen detect --json | jq -r .profile)" -o dist

\b
A profile's section `detect` says how its board is known; one without it fits any machine of its architecture.
Exit status: 0 a profile fits, 1 error, 2 usage, 3 a profile cannot be used, or none fits."""
)
@click.option(
    "--profile",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A profile of your own, before those that come along; may be given again.",
)
@click.option("--root", type=click.Path(path_type=Path), default=Path("/"), help="Where /proc and /sys are. Default: /")
@click.option("--machine", "arch", help="What `uname -m` says where --root is from. Default: this machine's.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object, with everything that was seen.")
def detect(files: tuple[Path, ...], root: Path, arch: str | None, as_json: bool) -> None:
    """Name the device profile that fits this machine, and why."""
    try:
        from .board.detect import detect as find
        from .board.machine import read_machine
        from .profile import Profile, builtin_profiles
    except ImportError as error:
        message = f"detect reads profiles, and {error.name} is not installed: pip install 'edgeqwen[runtime]'"
        raise click.ClickException(message) from error
    with one_line_errors():
        profiles = [Profile.load(path) for path in (*files, *builtin_profiles().values())]
        machine = read_machine(root, arch)
        found = find(machine, profiles)
        if as_json:
            click.echo(json.dumps(_as_json(machine, found)))
        else:
            wanted = {feature for profile in profiles for feature in profile.device.isa}
            _show(machine, found, sorted(machine.features & wanted))
        if found.best is None:
            fault = Fault("", "copy the nearest with `edgeqwen-compile profiles show` and give it with --profile")
            raise ProfileError([fault], f"no profile fits this {machine.arch} machine")


def _as_json(machine: Machine, found: Detected) -> dict[str, Any]:
    return {
        "profile": found.best.profile.name if found.best else None,
        "fits": [_match(match) for match in (found.best, *found.alternatives) if match],
        "unsupported": [
            _match(match)
            | {"unsupported": match.profile.execution.unsupported, "instead": match.profile.execution.instead}
            for match in found.unsupported
        ],
        "machine": asdict(machine) | {"features": sorted(machine.features)},
    }


def _match(match: Match) -> dict[str, Any]:
    return {
        "profile": match.profile.name,
        "provider": match.profile.execution.provider,
        "reasons": match.reasons,
        "doubts": match.doubts,
    }


def _show(machine: Machine, found: Detected, features: Iterable[str]) -> None:
    if found.best:
        click.echo(f"{found.best.profile.name}: {found.best.profile.description}")
        _lines("why", found.best.reasons)
        _lines("but", found.best.doubts)
    for match in found.alternatives:
        _lines("or", [f"{match.profile.name}, as {' and '.join((*match.reasons, *match.doubts))}"])
    for match in found.unsupported:
        _lines("not", [f"{match.profile.name}: {match.profile.execution.unsupported}"])
    _lines("seen", [f"{machine.model or 'a board without a name'}, {machine.arch}, {machine.cores} cores"])
    _lines("", [f"{machine.memory_mb} MB of memory", *machine.compatible, " ".join(features)])
    _lines("", [f"PCI {each.ids} ({each.driver or 'no driver'})" for each in machine.pci if _computes(each.ids)])
    _lines("", machine.accelerators)


def _computes(ids: str) -> bool:
    return ids.rpartition(":")[2].startswith(_COMPUTES)


def _lines(label: str, texts: Iterable[str]) -> None:
    """A line each; the first has the label."""
    for text in filter(None, texts):
        click.echo(f"  {label:<5}{text}")
        label = ""
