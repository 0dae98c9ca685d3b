"""Prompt presets from a YAML file: the user's, or those that every package has."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import PresetError
from runtime.presets import Presets, parse_presets
from runtime.yaml_file import read_yaml

OURS = Path(__file__).parent / "data" / "presets.yaml"


def read_presets_file(path: Path = OURS) -> Presets:
    """Presets by name. Raises PresetError with every fault."""
    return parse_presets(read_yaml(path, PresetError) or {}, subject=str(path), error=PresetError)
