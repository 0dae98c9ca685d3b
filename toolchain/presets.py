"""Prompt presets from a YAML file: the user's, or those that every package has."""

from __future__ import annotations

from pathlib import Path

import yaml

from runtime.errors import PresetError
from runtime.presets import Presets, parse_presets

OURS = Path(__file__).with_name("presets.yaml")


def read_presets_file(path: Path = OURS) -> Presets:
    """Presets by name. Raises PresetError with every fault."""
    try:
        data = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise PresetError([], f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return parse_presets(data or {}, subject=str(path), error=PresetError)
