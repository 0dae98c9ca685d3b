"""A site with three boards, a registry, and what an operator has: keys, certificates, wheels, an inventory."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Authority
from fleet.controller import Controller
from fleet.debian import Missing, make_root
from fleet.publisher import Publisher, make_registry
from fleet.site import Board, Site, missing, open_site
from fleet.wheelhouse import make_wheelhouse

VERSION = "0.1.0"
BOARDS = ("lab", "press", "pump")
REGISTRY, NEWCOMER = 9, 10  # their numbers


@pytest.fixture(scope="session")
def site(build_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if why := missing():
        pytest.skip(why)
    try:
        root = make_root(build_cache / "fleet")
    except Missing as error:
        pytest.skip(str(error))
    with open_site(root, tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="session")
def authority(site: Site) -> Authority:
    """The fleet's own: it vouches for boards, clients and the registry."""
    folder = site.folder / "certificates"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture(scope="session")
def publisher(site: Site, authority: Authority, build_cache: Path) -> Publisher:
    registry = make_registry(site, authority, REGISTRY)
    registry.boot()
    registry.run("systemctl start docker-registry")
    folder = site.folder / "packages"
    folder.mkdir()
    where = f"{registry.address}:5000"
    publisher = Publisher(site, folder, build_cache / "cache", where, authority.file, folder / "release.key")
    publisher.new_key("release")
    return publisher


@pytest.fixture(scope="session")
def wheels(site: Site, build_cache: Path) -> Path:
    """A folder of wheels, in one of that name."""
    folder = site.folder / "wheelhouse" / "wheels"
    folder.mkdir(parents=True)
    try:
        make_wheelhouse(build_cache / "fleet", folder, "runtime", "oci")
    except Missing as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture(scope="session")
def boards(site: Site) -> dict[str, Board]:
    """Systems with nothing of ours, running."""
    found = {name: site.board(name, number) for number, name in enumerate(BOARDS, 1)}
    for board in found.values():
        board.boot()
    return found


@pytest.fixture(scope="session")
def controller(
    site: Site, boards: dict[str, Board], publisher: Publisher, authority: Authority, wheels: Path
) -> Controller:
    """With an inventory in which the boards get version 1.0.0 of the package."""
    archive = site.folder / "wheels.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(wheels, "wheels")
    certificates = site.folder / "certificates"
    for board in boards.values():
        authority.issue(board.name, hosts=(board.address,))
    variables = {
        "edgeqwen_target": "https://{{ ansible_host }}:50443",
        "edgeqwen_version": VERSION,
        "edgeqwen_wheelhouse": str(archive),
        "edgeqwen_package": publisher.publish("1.0.0"),
        "edgeqwen_trust_roots": [str(publisher.public_key)],
        "edgeqwen_registry_ca": str(authority.file),
        "edgeqwen_tls": {
            "certificate": f"{certificates}/{{{{ inventory_hostname }}}}.pem",
            "key": f"{certificates}/{{{{ inventory_hostname }}}}.key",
            "client_ca": str(authority.file),
        },
        "edgeqwen_config": {
            "listen": ["unix:/run/edgeqwen/edgeqwend.sock", "0.0.0.0:50443"],
            "store": {"commit_after_s": 2},
        },
        "edgeqwen_group_members": ["admin"],
        "edgeqwen_poll_s": 1,
    }
    return Controller(site, list(boards.values()), variables)


@pytest.fixture(scope="session")
def provisioned(controller: Controller) -> Controller:
    """With boards that serve 1.0.0."""
    play = controller.play("provision.yml")
    assert play.exit_status == 0, play.output
    return controller
