"""What an output folder remembers of the packages in it: what each was made from, and its files as they were built."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from runtime.package import File, file_digest
from runtime.validation import StrictModel
from runtime.whole_file import sync

RECORDS = ".matrix"
"""The folder for them, in the output folder."""


class Record(StrictModel):
    """Of one package.

    Args:
        inputs: the key of all that it was made from.
        package: the name of its folder.
        files: by path in it. Others may have come later, such as signatures.
        variants: a row for each, for people and scripts.
    """

    inputs: str
    package: str
    files: dict[str, File]
    variants: list[dict[str, object]]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())

    def is_true(self, out: Path) -> bool:
        """Whether every file is there as it was. Reads them all."""
        root = out / self.package
        return all(_is(root / name, file) for name, file in self.files.items())


def _is(path: Path, file: File) -> bool:
    return path.is_file() and path.stat().st_size == file.size_bytes and file_digest(path) == file.sha256


def read_record(out: Path, job: str) -> Record | None:
    """Of what the job of that name has built in `out`; None if there is none that can be read."""
    try:
        return Record.model_validate_json(_path(out, job).read_bytes())
    except (OSError, ValidationError):
        return None


def write_record(out: Path, job: str, record: Record, scratch: Path) -> None:
    """Whole, or not at all, by way of the folder `scratch`, which is this run's own."""
    unfinished = scratch / f"{job}.json"
    unfinished.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    sync(unfinished)
    unfinished.replace(_path(out, job))


def _path(out: Path, job: str) -> Path:
    return out / RECORDS / f"{job}.json"
