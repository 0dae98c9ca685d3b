"""Stores of real packages, filled without a registry."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from runtime.package import Package
from runtime.store import state as steps
from runtime.store.recovery import describe
from runtime.store.state import Cause, Installed, State
from runtime.store.store import Store

NAME = "pump-talk"


def install(store: Store, package: Path, version: str, *, golden: list[int] | None = None) -> Installed:
    """`package` under one name for all, as `version`; `golden` is what its golden transcript says instead."""
    with store.installing():
        staged = store.incoming / version
        shutil.copytree(package, staged, copy_function=_link)
        [path] = staged.glob("models/decoder/*/build.json")
        build = json.loads(path.read_bytes()) | {"name": NAME, "version": version}
        if golden is not None:
            build["golden"]["greedy_ids"] = golden
        path.unlink()  # it is a second name of the package's own
        path.write_text(json.dumps(build))
        opened = Package.open(staged, verify=False)
        folder = f"{NAME}-{version}-{opened.build_digest[:12]}.ortpackage"
        installed = describe(opened, folder, "", time.time())
        store.add(staged, installed, Cause(time.time(), "root"))
    return installed


def activate(store: Store, package: Installed, *, commit: bool = False) -> State:
    """As somebody does while no daemon runs."""
    cause = Cause(time.time(), "root")
    state = store.change(lambda state: steps.activate(state, package.folder, cause))
    return store.change(lambda state: steps.commit(state, cause)) if commit else state


def history(store: Store) -> list[str]:
    """Each as `EVENT VERSION`."""
    return [f"{entry.event} {entry.version}" for entry in store.read().history]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
