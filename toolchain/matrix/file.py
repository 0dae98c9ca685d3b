"""The file of a matrix: models x profiles x precisions, with rows that leave out and that add, as GitHub's has them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from runtime.errors import MatrixError
from runtime.package import FIRST_VERSION, PROJECTIONS, is_adapter_name, is_version
from runtime.validation import StrictModel, parse
from runtime.yaml_file import read_yaml

from ..recipes.recipe import Precision
from ..variant import Exporter

_MAX_NAME_BYTES = 255  # of a file, as Linux has it


def _a_name(text: str) -> str:
    if not text.isprintable() or any(len(part.encode()) > _MAX_NAME_BYTES for part in text.split("/")):
        raise ValueError(f"names no file and no model (got {text[:60]!r})")
    return text


_TEXT = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_a_name)]


def _several(given: object) -> object:
    return [given] if isinstance(given, str) else given


Texts = Annotated[list[_TEXT], BeforeValidator(_several), Field(min_length=1)]
Precisions = Annotated[list[Precision], BeforeValidator(_several), Field(min_length=1)]


class Settings(StrictModel):
    """What `edgeqwen-compile build` takes beside SOURCE, profiles and precision. Files are relative to the matrix's."""

    revision: _TEXT | None = None
    calibration: _TEXT | None = None
    presets: _TEXT | None = None
    merge_adapter: _TEXT | None = None
    adapters: dict[str, _TEXT] = Field(default_factory=dict)
    adapter_targets: list[Literal[PROJECTIONS]] = Field(default_factory=list)  # type: ignore[valid-type]
    exporter: Exporter = "model_builder"
    allow_low_fidelity: bool = False

    @field_validator("adapters")
    @classmethod
    def _have_names(cls, adapters: dict[str, str]) -> dict[str, str]:
        if bad := [name for name in adapters if not is_adapter_name(name)]:
            raise ValueError(f"a name has a-z, 0-9, '.', '-', '_' (got {bad[0]!r})")
        return adapters


class Row(StrictModel):
    """Fits the combinations that have one of the values of each list that it has."""

    model: Texts | None = None
    profile: Texts | None = None
    precision: Precisions | None = None


class Include(Row, Settings):
    """Sets settings of the combinations that it fits, or adds those that it names."""

    @property
    def settings(self) -> dict[str, object]:
        """Those that the row has."""
        return {name: getattr(self, name) for name in Settings.model_fields if name in self.model_fields_set}


class MatrixFile(StrictModel):
    """A file of builds. Without precisions, each profile is built in its own."""

    output: _TEXT | None = None
    package_version: str = FIRST_VERSION
    models: list[_TEXT] = Field(default_factory=list)
    profiles: list[_TEXT] = Field(default_factory=list)
    precisions: list[Precision] = Field(default_factory=list)
    exclude: list[Row] = Field(default_factory=list)
    include: list[Include] = Field(default_factory=list)

    @field_validator("package_version")
    @classmethod
    def _is_version(cls, version: str) -> str:
        if not is_version(version):
            raise ValueError(f"must be MAJOR.MINOR.PATCH, three numbers of at most 6 digits (got {version!r})")
        return version


def read_matrix_file(path: Path) -> MatrixFile:
    """Raises MatrixError with every fault of its form."""
    data = read_yaml(path, MatrixError)
    return parse(MatrixFile, {} if data is None else data, subject=str(path), error=MatrixError)
