"""A board that nobody logs in to: cloud-init makes it one of the fleet at its first boot."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import Authority
from fleet.boards import active, answers
from fleet.conftest import NEWCOMER
from fleet.controller import Controller, documented
from fleet.site import CONTROLLER, Board, Site

pytestmark = pytest.mark.fleet

_SEED = "var/lib/cloud/seed/nocloud"
_CLOUD = "network: {config: disabled}\ndatasource_list: [NoCloud]\nssh_deletekeys: false\n"


@pytest.fixture
def wheels_url(site: Site, wheels: Path, authority: Authority) -> Iterator[str]:
    """Where the site serves them."""
    pair = authority.issue("wheels", hosts=(CONTROLLER,))
    serve = (str(Path(__file__).parent / "serve.py"), str(wheels.parent), CONTROLLER, "8443")
    command = site.on_network(sys.executable, *serve, pair.certificate, pair.key)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield f"https://{CONTROLLER}:8443/wheels/"
        process.kill()


def test_a_board_joins_by_itself_though_its_power_is_cut(
    controller: Controller, site: Site, authority: Authority, wheels_url: str
) -> None:
    """From valid user-data to a daemon that answers. Cut while its software is installed, it goes
    on when it boots again, and rests once it is done."""
    data = _user_data(controller, site, authority, wheels_url)
    meta = "instance-id: newcomer\nlocal-hostname: newcomer\n"
    files = {f"{_SEED}/user-data": data, f"{_SEED}/meta-data": meta, "etc/cloud/cloud.cfg.d/99.cfg": _CLOUD}
    board = site.board("newcomer", NEWCOMER, files)
    board.boot()
    assert "Valid" in board.run(f"cloud-init schema --config-file /{_SEED}/user-data 2>&1")
    _wait(board, "ls -d /opt/edgeqwen/*/bin/pip")
    assert board.ssh("ls /opt/edgeqwen/*/.complete").returncode != 0
    board.cut_power()
    board.boot()
    _wait(board, "systemctl is-active edgeqwend && ! systemctl is-enabled edgeqwen-first-boot")
    assert active(board)["version"] == "1.0.0"
    assert answers(board)
    assert "edgeqwen" in board.run("id -nG admin").split()
    assert board.run("stat -c '%a %U %G' /etc/edgeqwen/tls/key.pem") == "640 root edgeqwen\n"


def _user_data(controller: Controller, site: Site, authority: Authority, wheels_url: str) -> str:
    """As the playbook writes it for the newcomer."""
    newcomer = Board("newcomer", site.address(NEWCOMER), site, site.folder)
    authority.issue(newcomer.name, hosts=(newcomer.address,))
    pip = ["--cert", "/etc/edgeqwen/registry-ca.pem"]
    own = controller.beside([newcomer], edgeqwen_wheelhouse=wheels_url, edgeqwen_pip_arguments=pip)
    [arguments] = documented("cloud-init.yml")
    play = own.play("cloud-init.yml", *arguments)
    assert play.exit_status == 0, play.output
    return (site.folder / "user-data" / "newcomer.yaml").read_text()


def _wait(board: Board, until: str) -> None:
    """For as long as it takes."""
    while board.ssh(until).returncode != 0:
        assert board.ssh("systemctl is-failed cloud-final").returncode != 0, board.run("journalctl -b")
        time.sleep(0.2)
