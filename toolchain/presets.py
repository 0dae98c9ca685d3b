"""Prompt presets from a YAML file: the user's, or those that every package has."""

from __future__ import annotations

from pathlib import Path

import yaml

from runtime.errors import Fault, PresetError
from runtime.presets import Presets, parse_presets

OURS = Path(__file__).parent / "data" / "presets.yaml"


def read_presets_file(path: Path = OURS) -> Presets:
    """Presets by name. Raises PresetError with every fault."""
    try:
        data = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise PresetError([Fault("", f"cannot be read: {' '.join(str(error).split())}")], str(path)) from error
    return parse_presets(data or {}, subject=str(path), error=PresetError)
