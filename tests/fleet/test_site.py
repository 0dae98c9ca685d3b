"""What the other tests stand on: boards that cannot touch this machine, and whose power really goes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from fleet.site import Site

pytestmark = pytest.mark.fleet


def test_boards_are_apart_from_this_machine(site: Site, tmp_path: Path) -> None:
    """A board that boots, whose systemd empties /tmp at that, leaves this machine's files and network alone."""
    with tempfile.NamedTemporaryFile(dir="/tmp", prefix="edgeqwen-canary-") as canary:
        board = site.board("apart", 20)
        board.boot()
        seen = board.run(f"ls -d {canary.name} {tmp_path} 2> /dev/null; ip route; touch {canary.name}-theirs /here")
        assert Path(canary.name).exists()
        assert not Path(f"{canary.name}-theirs").exists()
        assert not Path("/here").exists()
    assert seen.split() == ["10.77.0.0/24", "dev", "eth0", "proto", "kernel", "scope", "link", "src", board.address]


def test_a_cut_loses_what_was_not_synced(site: Site) -> None:
    """And nothing else; the board boots again from what is there."""
    board = site.board("cut", 21)
    board.boot()
    board.run("echo kept > /root/kept; sync -f /root; echo lost > /root/lost")
    board.cut_power()
    assert board.ssh("true").returncode != 0
    board.boot()
    assert board.run("cat /root/kept") == "kept\n"
    assert board.ssh("grep lost /root/lost").returncode != 0
