"""Prompt presets: named instructions for the model, with the sampling and the thinking that go with them.

A package has some in `configs/presets.json`; a request names one.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .errors import Fault, InvalidInput, PackageCorrupt, RequestError
from .package import CONFIGS, SamplingDefaults
from .validation import StrictModel, parse

FILE = CONFIGS / "presets.json"
MAX_VALUE_BYTES = 1024

Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_-]{0,31}$")]


class Preset(StrictModel):
    """What to tell the model before a conversation. `$name` in `system` stands for a value of that name."""

    description: Annotated[str, Field(min_length=1, max_length=200)]
    system: Annotated[str, Field(min_length=1, max_length=8192)]
    values: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,31}$")], str] = Field(default_factory=dict)
    thinking: Literal["auto", "on", "off"] = Field("auto", description="As far as the model can.")
    sampling: SamplingDefaults | None = Field(None, description="Instead of the model's own defaults.")

    @field_validator("system")
    @classmethod
    def _is_template(cls, text: str) -> str:
        if not string.Template(text).is_valid():
            raise ValueError("has a $ that is no value: write $$ for a plain one")
        return text

    @model_validator(mode="after")
    def _names_values(self) -> Preset:
        if unknown := sorted(set(string.Template(self.system).get_identifiers()) - self.values.keys()):
            raise ValueError(f"system asks for {', '.join(unknown)}, which values does not list")
        return self

    def instructions(self, values: Mapping[str, str]) -> str:
        """The system prompt. Raises RequestError for values that it does not have, or that are too long."""
        have = ", ".join(sorted(self.values)) or "none"
        faults = [
            Fault(f"chat.preset_values[{json.dumps(name)}]", f"is no value of the preset; it has {have}")
            for name in sorted(values.keys() - self.values.keys())
        ]
        faults += [
            Fault(f"chat.preset_values[{json.dumps(name)}]", f"must be at most {MAX_VALUE_BYTES} bytes")
            for name, value in sorted(values.items())
            if len(value.encode()) > MAX_VALUE_BYTES
        ]
        if faults:
            raise RequestError(faults)
        return string.Template(self.system).substitute({**self.values, **values})


class _Presets(StrictModel):
    presets: dict[Name, Preset]


Presets = dict[str, Preset]


def parse_presets(data: object, *, subject: str, error: type[InvalidInput]) -> Presets:
    """Presets by name. Raises `error` with every fault."""
    return parse(_Presets, {"presets": data}, subject=subject, error=error).presets


def read_presets(package: Path) -> Presets:
    """Those of the package at `package`; none if it has no such file. Raises PackageCorrupt."""
    path = package / FILE
    if not path.is_file():
        return {}
    try:
        return parse_presets(json.loads(path.read_bytes()), subject=FILE.name, error=InvalidInput)
    except (ValueError, InvalidInput) as error:
        raise PackageCorrupt(f"{FILE} cannot be used: {error}") from error


def presets_json(presets: Presets) -> str:
    """The text of a package's file."""
    data = {name: preset.model_dump(exclude_none=True) for name, preset in sorted(presets.items())}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"
