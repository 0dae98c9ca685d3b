"""The emulated board, and packages with one model for it and for this machine."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from arm64.board import Board, make_board
from integration.packages import build_package

from runtime.profile import Profile, parse_profile

Twins = Callable[[str, Profile], Path]
"""Builds at a precision, for a profile and for its twin that is the same but for this machine."""


@pytest.fixture(scope="session")
def board(build_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Board:
    return make_board(build_cache / "arm64", tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="session")
def twins(build_cache: Path) -> Twins:
    folder = build_cache / "arm64" / "profiles"
    folder.mkdir(parents=True, exist_ok=True)

    def build(precision: str, profile: Profile) -> Path:
        files = [_file(folder, each) for each in (profile, twin_of(profile))]
        return build_package(precision, *map(str, files), cache=build_cache)

    return build


def twin_of(profile: Profile) -> Profile:
    """The same model, graph and KV cache, for this machine."""
    data = profile.model_dump()
    device = data["device"] | {"arch": platform.machine(), "isa": []}
    return parse_profile(data | {"name": f"{profile.name}-here", "device": device}, "twin")


def _file(folder: Path, profile: Profile) -> Path:
    path = folder / f"{profile.name}.yaml"
    path.write_text(yaml.safe_dump(profile.model_dump()), encoding="utf-8")
    return path
