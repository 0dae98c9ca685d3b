"""Writes packages: Olive's model package layout, our serving graph and `build.json`, published whole or not at all.

The same inputs give the same bytes: nothing in a package depends on a clock, a path, or the order of a set.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.package import BUILD_FILE, CONFIGS, SERVING_GRAPH, SUFFIX, VARIANTS, Build, File, file_digest

from .compile import olive_model_package
from .surgery import STOCK_GRAPH

WEIGHTS = f"{STOCK_GRAPH}.data"

# What a device needs of a checkpoint's own files.
_CONFIG_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class VariantInput:
    """A compiled variant: `model_dir` holds both graphs, the weights and genai_config.json; `build` lacks `files`."""

    model_dir: Path
    build: Build


def write_package(folder: Path, checkpoint: Path, variants: Sequence[VariantInput]) -> Path:
    """Writes `folder/NAME.ortpackage` with the tokenizer and configs of `checkpoint`; returns its path.

    A package of that name that is there stays as it was until the new one is whole.
    """
    name = variants[0].build.name
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}{SUFFIX}"
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as scratch:
        sources = [_olive_source(Path(scratch) / "sources", checkpoint, variant) for variant in variants]
        package = Path(scratch) / target.name
        olive_model_package(sources, package, name)
        for variant in variants:
            _add_ours(package, variant)
        _flush(package)
        _publish(package, target, Path(scratch) / "replaced")
    return target


def _olive_source(folder: Path, checkpoint: Path, variant: VariantInput) -> Path:
    """What Olive takes a variant from: a folder of its name with the stock graph and the checkpoint's configs."""
    source = folder / variant.build.variant
    source.mkdir(parents=True)
    for name in (STOCK_GRAPH, WEIGHTS, "genai_config.json"):
        _link(variant.model_dir / name, source / name)
    for name in _CONFIG_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, source / name)
    return source


def _add_ours(package: Path, variant: VariantInput) -> None:
    folder = package / VARIANTS / variant.build.variant
    shutil.copyfile(variant.model_dir / SERVING_GRAPH, folder / SERVING_GRAPH)
    for path in package.rglob("*"):  # readable by the daemon's user, whoever builds
        path.chmod(0o755 if path.is_dir() else 0o644)
    paths = sorted(p for part in (package / CONFIGS, folder) for p in part.rglob("*") if p.is_file())
    files = {
        path.relative_to(package).as_posix(): File(sha256=file_digest(path), size_bytes=path.stat().st_size)
        for path in paths
        if path.name != BUILD_FILE
    }
    build = variant.build.model_copy(update={"files": files})
    (folder / BUILD_FILE).write_text(build.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another filesystem, or one without links
        shutil.copyfile(source, target)


def _flush(folder: Path) -> None:
    """Everything below `folder` is on the disk when this returns."""
    for path in [folder, *folder.rglob("*")]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _publish(package: Path, target: Path, replaced: Path) -> None:
    if target.exists():
        target.replace(replaced)
    package.replace(target)
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
