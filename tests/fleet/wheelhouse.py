"""Wheels for the boards: of this checkout, of its next version, and of all that they require, fetched once and kept."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fleet.debian import GLIBC, PYTHON, Missing

REPO = Path(__file__).parents[2]
NEXT_VERSION = "0.2.0"
_SHIPPED = ("runtime", "toolchain", "protos", "device_profiles", "systemd")
_FOR_BOARDS = ("--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}")
_TAGS = (*(f"manylinux_2_{minor}" for minor in range(GLIBC[1], 4, -1)), "manylinux2014", "manylinux2010")
_PLATFORMS = tuple(f"--platform={tag}_{platform.machine()}" for tag in _TAGS)


def make_wheelhouse(kept: Path, folder: Path, *extras: str) -> None:
    """Puts them into `folder`, which is empty. Raises Missing."""
    _build(REPO, folder)
    [wheel] = folder.glob("edgeqwen-*.whl")
    with tempfile.TemporaryDirectory() as scratch:
        _build(_next_version(Path(scratch)), folder)
    made_from = (REPO / "pyproject.toml").read_bytes() + ",".join((*extras, *_FOR_BOARDS, *_PLATFORMS)).encode()
    others = kept / f"wheels-{hashlib.sha256(made_from).hexdigest()[:12]}"
    if not others.is_dir():
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=kept) as scratch:
            part = Path(scratch) / "wheels"
            _python("pip", "download", "--dest", str(part), *_FOR_BOARDS, *_PLATFORMS, f"{wheel}[{','.join(extras)}]")
            (part / wheel.name).unlink()
            part.rename(others)
    shutil.copytree(others, folder, dirs_exist_ok=True)


def _build(source: Path, folder: Path) -> None:
    _python("build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source))


def _next_version(folder: Path) -> Path:
    """The same sources under another version, as a release would be."""
    for name in _SHIPPED:
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "README.md", folder)
    project = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    changed = re.sub('^version = ".*"$', f'version = "{NEXT_VERSION}"', project, count=1, flags=re.MULTILINE)
    (folder / "pyproject.toml").write_text(changed, encoding="utf-8")
    return folder


def _python(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Missing(f"the boards' wheels cannot be made (is there a network?): {said}")
