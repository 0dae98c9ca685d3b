"""Boards from nothing, by Ansible over ssh: the role as an operator uses it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from certificates import Authority
from fleet.boards import active, answers, daemons, events, versions
from fleet.conftest import VERSION
from fleet.controller import Controller, documented, setting
from fleet.publisher import Publisher
from fleet.site import Board, Site
from fleet.wheelhouse import NEXT_VERSION

pytestmark = pytest.mark.fleet

Boards = dict[str, Board]
IN_WAVES = '{"edgeqwen_waves": [1, "100%"]}'


def test_check_mode_on_a_board_with_nothing_changes_nothing(controller: Controller, boards: Boards) -> None:
    """And it says what it would do."""
    play = controller.play("provision.yml", "--check", "--diff", "--limit", "pump")
    assert play.exit_status == 0, play.output
    assert play.recap["pump"]["changed"] > 0
    assert boards["pump"].run("ls /opt /etc /var/lib | grep edgeqwen || true") == ""
    assert boards["pump"].run("getent passwd edgeqwen || true") == ""


def test_boards_are_provisioned_from_nothing(provisioned: Controller, boards: Boards) -> None:
    """Each serves the inventory's package, now and at each boot, to the users that the inventory names."""
    assert versions(boards) == dict.fromkeys(boards, "1.0.0")
    for board in boards.values():
        assert answers(board)
        assert board.run("systemctl is-enabled edgeqwend") == "enabled\n"
        assert "edgeqwen" in board.run("id -nG admin").split()
        assert [event for event, _ in events(board, "1.0.0")][:2] == ["installed", "activated"]


def test_a_second_run_changes_nothing(provisioned: Controller, boards: Boards) -> None:
    """Nor does check mode find anything to change, and the daemons are the same processes; as the guide calls it."""
    before = daemons(boards)
    for arguments in documented("provision.yml")[:2]:
        play = provisioned.play("provision.yml", *arguments)
        assert play.exit_status == 0, play.output
        assert play.of("changed") == dict.fromkeys(boards, 0), play.output
    assert daemons(boards) == before


def test_other_machines_ask_with_a_certificate(
    provisioned: Controller, boards: Boards, site: Site, authority: Authority
) -> None:
    """One that the fleet's authority signed; others hear nothing."""
    pair = authority.issue("panel")
    target = f"https://{boards['press'].address}:50443"
    ask = (Path(sys.executable).parent / "edgeqwen", "--target", target, "--ca", authority.file)
    words = ("generate", "One", "--max-tokens", "2")
    known = site.run(*ask, "--certificate", pair.certificate, "--key", pair.key, *words)
    assert known.returncode == 0, known.stderr
    assert site.run(*ask, *words).returncode == 69


def test_the_fleet_is_seen_from_the_same_inventory(
    provisioned: Controller, boards: Boards, site: Site, authority: Authority
) -> None:
    """`edgeqwen fleet status` reads what Ansible does, and finds every board serving."""
    pair = authority.issue("operator")
    program = Path(sys.executable).parent / "edgeqwen"
    who = ("--ca", authority.file, "--certificate", pair.certificate, "--key", pair.key)
    asked = site.run(program, "fleet", "status", "-i", provisioned.inventory, *who, "--json")
    told = json.loads(asked.stdout)
    assert {board["board"]: board["state"] for board in told["boards"]} == dict.fromkeys(boards, "serving")


def test_a_setting_is_checked_before_it_is_written(provisioned: Controller, boards: Boards) -> None:
    """One that the daemon refuses leaves the board as it is, and in waves those behind it untouched; check mode only
    shows one that it takes; then that restarts it."""
    before = daemons(boards)
    refused = provisioned.play("provision.yml", "-e", setting(queue_limit=0), "-e", IN_WAVES)
    assert refused.exit_status == 2
    assert "queue_limit" in refused.text
    assert set(refused.recap) == {"lab"}
    shown = provisioned.play("provision.yml", "--limit", "lab", "--check", "--diff", "-e", setting(queue_limit=5))
    assert "+queue_limit: 5" in shown.output, shown.output
    assert daemons(boards) == before
    assert answers(boards["lab"])
    taken = provisioned.play("provision.yml", "--limit", "lab", "-e", setting(queue_limit=5))
    assert taken.exit_status == 0, taken.output
    assert "queue_limit: 5" in boards["lab"].run("cat /etc/edgeqwen/edgeqwend.yaml")
    after = daemons(boards)
    assert {name for name in boards if after[name] != before[name]} == {"lab"}


def test_a_board_that_fails_holds_up_no_other(provisioned: Controller, boards: Boards) -> None:
    """It has new settings by then, and a daemon with the old ones. The next run starts that again, though there is
    nothing left to write."""
    drop_ins = "/etc/systemd/system/edgeqwend.service.d"
    boards["pump"].run(f"mount -t tmpfs -o ro none {drop_ins}")
    before = daemons(boards)
    play = provisioned.play("provision.yml", "-e", setting(queue_limit=6))
    assert play.exit_status == 2
    assert play.of("failed") == {"lab": 0, "press": 0, "pump": 1}, play.output
    boards["pump"].run(f"umount {drop_ins}")
    after = daemons(boards)
    assert {name for name in boards if after[name] != before[name]} == {"lab", "press"}
    assert "queue_limit: 6" in boards["pump"].run("cat /etc/edgeqwen/edgeqwend.yaml")
    mended = provisioned.play("provision.yml", "--limit", "pump", "-e", setting(queue_limit=6))
    assert mended.exit_status == 0, mended.output
    assert daemons(boards)["pump"] != after["pump"]


def test_a_user_who_is_misspelt_is_not_made(provisioned: Controller, boards: Boards) -> None:
    play = provisioned.play("provision.yml", "--limit", "lab", "-e", '{"edgeqwen_group_members": ["amdin"]}')
    assert play.exit_status == 2
    assert "(item=amdin)" in play.output
    assert boards["lab"].ssh("id amdin").returncode != 0


def test_what_the_inventory_no_longer_names_is_no_longer_trusted(
    provisioned: Controller, publisher: Publisher, boards: Boards
) -> None:
    """A key is revoked by taking it out."""
    former = publisher.new_key("former").with_suffix(".pem")
    both = json.dumps({"edgeqwen_trust_roots": [str(publisher.public_key), str(former)]})
    for arguments, trusted in ((("-e", both), "former.pem release.pem"), ((), "release.pem")):
        play = provisioned.play("provision.yml", "--limit", "lab", *arguments)
        assert play.exit_status == 0, play.output
        assert boards["lab"].run("ls /etc/edgeqwen/trust.d").split() == trusted.split()


def test_a_new_version_of_the_software_takes_the_place_of_the_old(provisioned: Controller, boards: Boards) -> None:
    """In waves, as the guide calls it; each daemon is another process then that serves what it served, and the old
    version is gone, as is one that was never completed."""
    boards["lab"].run("python3 -m venv --without-pip /opt/edgeqwen/0.1.9-oci-runtime")
    before, serving = daemons(boards), versions(boards)
    play = provisioned.play("provision.yml", *documented("provision.yml")[2])
    assert play.exit_status == 0, play.output
    assert versions(boards) == serving
    after = daemons(boards)
    for name, board in boards.items():
        assert after[name] != before[name]
        assert answers(board)
        assert NEXT_VERSION in board.run("edgeqwend --version")
        assert board.run("ls /opt/edgeqwen").split() == [f"{NEXT_VERSION}-oci-runtime", "current"]


def test_the_software_goes_back_as_it_came(provisioned: Controller, boards: Boards) -> None:
    """To the version that the inventory has: it serves what the newer one did."""
    lab = boards["lab"]
    before, serving = daemons(boards)["lab"], active(lab)
    play = provisioned.play("provision.yml", "--limit", "lab")
    assert play.exit_status == 0, play.output
    assert daemons(boards)["lab"] != before
    assert VERSION in lab.run("edgeqwend --version")
    assert lab.run("ls /opt/edgeqwen").split() == [f"{VERSION}-oci-runtime", "current"]
    assert active(lab) == serving
    assert answers(lab)
