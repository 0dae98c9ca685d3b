"""Writes packages: Olive's model package layout, our serving graph and `build.json`, published whole or not at all.

Olive lays out the variants for ONNX Runtime. Others have their folder beside those, in the same layout.

The same inputs give the same bytes: nothing in a package depends on a clock, a path, or the order of a set.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import BuildError
from runtime.package import (
    BUILD_FILE,
    CONFIGS,
    SUFFIX,
    VARIANTS,
    Build,
    File,
    build_json,
    file_digest,
)
from runtime.presets import FILE as PRESETS_FILE
from runtime.presets import Presets, presets_json
from runtime.whole_file import sync

from .cache import flush
from .compile import olive_model_package
from .variant import VariantParts

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h

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
    """A compiled variant; `build` lacks `files`."""

    parts: VariantParts
    build: Build


def write_package(folder: Path, checkpoint: Path, variants: Sequence[VariantInput], presets: Presets) -> Path:
    """Writes `folder/NAME.ortpackage` with the tokenizer and configs of `checkpoint`, and `presets`; returns its path.

    A package of that name that is there stays as it was until the new one is whole.
    """
    name, version = variants[0].build.name, variants[0].build.version
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}{SUFFIX}"
    with scratch_folder(folder, f".{name}-") as scratch:
        package = scratch / target.name
        onnx = [variant for variant in variants if variant.parts.for_onnxruntime]
        if onnx:
            sources = [_olive_source(scratch / "sources", checkpoint, variant) for variant in onnx]
            olive_model_package(sources, package, name, version)
        else:
            _model_package(package, checkpoint, name, version)
        for variant in variants:
            if not variant.parts.for_onnxruntime:
                _add_stock(package / VARIANTS / variant.build.variant, variant)
        (package / PRESETS_FILE).write_text(presets_json(presets), encoding="utf-8")
        for variant in variants:
            _add_ours(package, variant)
        flush(package)
        publish(package, target)
    return target


@contextmanager
def scratch_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """A locked folder for the length of the block. Those that killed builds left, which nobody locks, go first."""
    with _handle(folder) as parent:
        fcntl.flock(parent, fcntl.LOCK_EX)
        for left in folder.glob(f"{prefix}*"):
            with _handle(left) as handle, suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        handle = os.open(made, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield made
    finally:
        shutil.rmtree(made)
        os.close(handle)


@contextmanager
def _handle(path: Path) -> Iterator[int]:
    """`path`, open for reading. Locks on it end with the block."""
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _olive_source(folder: Path, checkpoint: Path, variant: VariantInput) -> Path:
    """What Olive takes a variant from: a folder of its name with the stock model and the checkpoint's configs."""
    source = folder / variant.build.variant
    _add_stock(source, variant)
    _add_configs(source, checkpoint)
    return source


def _model_package(package: Path, checkpoint: Path, name: str, version: str) -> None:
    """The layout without a variant for ONNX Runtime."""
    (package / VARIANTS).mkdir(parents=True)
    (package / CONFIGS).mkdir()
    _add_configs(package / CONFIGS, checkpoint)
    manifest = {
        "schema_version": 1,
        "package_name": name,
        "package_version": version,
        "components": [VARIANTS.name],
        "configs_dir": CONFIGS.name,
        "producer": {"tool": "edgeqwen", "model_name": name, "model_version": version, "task": "text_generation"},
    }
    _write_json(package / "manifest.json", manifest)
    metadata = {"schema_version": 1, "component_name": VARIANTS.name, "variants": {}}
    _write_json(package / VARIANTS / "metadata.json", metadata)


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _add_stock(folder: Path, variant: VariantInput) -> None:
    folder.mkdir(parents=True)
    for path in variant.parts.stock:
        _link(path, folder / path.name)


def _add_configs(folder: Path, checkpoint: Path) -> None:
    for name in _CONFIG_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)


def _add_ours(package: Path, variant: VariantInput) -> None:
    folder = package / VARIANTS / variant.build.variant
    for name, path in variant.parts.ours.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / name)
    for path in package.rglob("*"):  # readable by the daemon's user, whoever builds
        path.chmod(0o755 if path.is_dir() else 0o644)
    paths = sorted(p for part in (package / CONFIGS, folder) for p in part.rglob("*") if p.is_file())
    files = {
        path.relative_to(package).as_posix(): File(sha256=file_digest(path), size_bytes=path.stat().st_size)
        for path in paths
        if path.name != BUILD_FILE
    }
    build = variant.build.model_copy(update={"files": files})
    (folder / BUILD_FILE).write_text(build_json(build), encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another filesystem, or one without links
        shutil.copyfile(source, target)


def publish(package: Path, target: Path) -> None:
    """Puts `package` at `target` in one step; what was there is at `package` then."""
    try:
        package.rename(target)
    except OSError:
        if not target.exists():
            raise
        _exchange(package, target)
    sync(target.parent)


def _exchange(one: Path, other: Path) -> None:
    """renameat2(2): whoever is killed when, there is always a whole package at both."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise BuildError(f"{other} is there and cannot be replaced ({reason}): remove it, or choose another --output")
