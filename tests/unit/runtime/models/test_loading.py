"""A package becomes a session of the backend that it was built for, or says why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from unit.runtime.tiny_package import edit_build, make_package

from runtime.board.cpu import Cpu
from runtime.board.localsettings import LocalSettingsFile
from runtime.configuration.config import Config
from runtime.configuration.settings import decide
from runtime.errors import SessionError
from runtime.models.loading import load_session
from runtime.package import Package
from runtime.profile import find_profile


def test_without_openvino_a_package_for_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else runs it."""
    root = make_package(tmp_path / "p")
    edit_build(root, {"profile": find_profile("openvino-x86_64").model_dump()})
    package = Package.open(root)
    file = LocalSettingsFile(tmp_path, package.build_digest, Cpu("a", (1,)))
    settings = decide(Config(package=root), package, file, None, cores=1)
    for name in [name for name in sys.modules if name.startswith("runtime.openvino_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SessionError, match=r"OpenVINO is not installed: pip install 'edgeqwen\[openvino\]'"):
        load_session(package, settings)
