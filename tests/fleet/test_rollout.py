"""Packages onto the fleet, wave by wave: what is good arrives everywhere, what is bad nowhere that matters.

The tests go on from one another: each publishes the next version.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence

import pytest
from fleet.boards import active, answers, daemons, events, packages, versions
from fleet.controller import Controller, Play, documented, setting
from fleet.publisher import Publisher
from fleet.site import Board

pytestmark = pytest.mark.fleet

Boards = dict[str, Board]
DOCUMENTED = "oci://registry.example/edge/qwen:1.3.0"
ONE_THEN_ALL = '{"edgeqwen_waves": [1, "100%"]}'
ALL_AT_ONCE = '{"edgeqwen_waves": ["100%"]}'


def roll_out(controller: Controller, reference: str, waves: str = ONE_THEN_ALL, *more: str) -> Play:
    return controller.play("rollout.yml", "-e", f"edgeqwen_package={reference}", "-e", waves, *more)


class Rollout:
    """One of all boards at once, while it runs; `play` is what became of it."""

    def __init__(self, controller: Controller, reference: str, *more: str) -> None:
        self.play = Play(-1, "")
        self._thread = threading.Thread(target=self._run, args=(controller, reference, more))

    def _run(self, controller: Controller, reference: str, more: Sequence[str]) -> None:
        self.play = roll_out(controller, reference, ALL_AT_ONCE, *more)

    def __enter__(self) -> Rollout:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """It must come true before the end."""
        while not condition():
            assert self._thread.is_alive(), self.play.output


def have_tried_for(controller: Controller, board: Board, seconds: float) -> None:
    """The board, and only that, tries packages for so long."""
    settings = setting(store={"commit_after_s": seconds})
    play = controller.play("provision.yml", "--limit", board.name, "-e", settings)
    assert play.exit_status == 0, play.output


def is_tried(board: Board, version: str) -> bool:
    serving = active(board)
    return serving["version"] == version and bool(serving["trial"])


def test_a_good_package_reaches_every_board_in_waves(
    provisioned: Controller, publisher: Publisher, boards: Boards
) -> None:
    """The next wave begins when the one before has committed; the daemons are not started again, and neither
    check mode before nor a second run changes anything. As the guide calls it."""
    before = daemons(boards)
    reference = publisher.publish("1.1.0")
    looking, doing, doing_again = [
        [word.replace(DOCUMENTED, reference) for word in arguments] for arguments in documented("rollout.yml")
    ]
    looked = provisioned.play("rollout.yml", *looking)
    assert looked.exit_status == 0, looked.output
    assert all(f"{name}: tiny-float32 1.0.0" in looked.text for name in boards)
    play = provisioned.play("rollout.yml", *doing)
    assert play.exit_status == 0, play.output
    assert versions(boards) == dict.fromkeys(boards, "1.1.0")
    assert all(f"{name}: tiny-float32 1.1.0" in play.text for name in boards)
    when = {name: dict(events(board, "1.1.0")) for name, board in boards.items()}
    assert all(list(its) == ["installed", "activated", "committed"] for its in when.values())
    assert when["lab"]["committed"] <= min(when[name]["installed"] for name in ("press", "pump"))
    assert daemons(boards) == before
    again = provisioned.play("rollout.yml", *doing_again)
    assert (again.exit_status, set(again.of("changed").values())) == (0, {0}), again.output


@pytest.mark.parametrize(("version", "kind", "reason"), [("1.2.0", "spoiled", "golden"), ("1.3.0", "forged", "trust")])
def test_a_bad_package_is_stopped_at_its_first_wave(
    provisioned: Controller, publisher: Publisher, boards: Boards, version: str, kind: str, reason: str
) -> None:
    """Whether it is not what it says it is, or is signed by somebody else: every board serves what it served, and
    those of later waves never heard of it."""
    key = publisher.new_key("stranger") if kind == "forged" else None
    reference = publisher.publish(version, key=key, spoil=kind == "spoiled")
    before = versions(boards)
    play = roll_out(provisioned, reference)
    assert play.exit_status == 2, play.output
    assert reason in play.text
    assert "1 of 1 boards of this wave failed or were lost" in play.text
    assert versions(boards) == before
    assert all(answers(board) for board in boards.values())
    for name in ("press", "pump"):
        assert version not in {package["version"] for package in packages(boards[name])}


def test_a_wave_goes_back_as_a_whole(provisioned: Controller, publisher: Publisher, boards: Boards) -> None:
    """One board of it, whose daemon does not run, keeps the others from having what would have suited them; the wave
    before keeps it."""
    boards["pump"].run("systemctl stop edgeqwend")
    reference = publisher.publish("1.4.0")
    play = roll_out(provisioned, reference)
    assert play.exit_status == 2, play.output
    assert "1 of 2 boards of this wave failed or were lost: it is undone, and no other begins" in play.text
    assert "pump: tiny-float32 1.1.0, edgeqwend does not run" in play.text
    assert versions(boards) == {"lab": "1.4.0", "press": "1.1.0", "pump": "1.1.0"}
    assert [event for event, _ in events(boards["press"], "1.4.0")] == [
        *("installed", "activated", "committed", "rolled_back"),
    ]
    boards["pump"].run("systemctl start edgeqwend")
    mended = roll_out(provisioned, reference)
    assert mended.exit_status == 0, mended.output
    assert versions(boards) == dict.fromkeys(boards, "1.4.0")


def test_some_boards_may_fail_where_that_is_said(provisioned: Controller, publisher: Publisher, boards: Boards) -> None:
    """One of the wave cannot install, and one that cannot switch goes back alone; the third keeps what it got."""
    boards["pump"].run("mv /etc/edgeqwen/trust.d/release.pem /root")
    boards["press"].run("systemctl stop edgeqwend")
    before = versions(boards)
    reference = publisher.publish("1.5.0")
    play = roll_out(provisioned, reference, ALL_AT_ONCE, "-e", "edgeqwen_max_fail_percentage=70")
    assert play.exit_status == 0, play.output
    assert versions(boards) == {**before, "lab": "1.5.0"}
    assert re.search(f"pump: tiny-float32 {before['pump']}, [^']*trust", play.text), play.output
    assert f"press: tiny-float32 {before['press']}, edgeqwend does not run" in play.text
    assert [event for event, _ in events(boards["press"], "1.5.0")] == ["installed", "activated", "rolled_back"]
    boards["pump"].run("mv /root/release.pem /etc/edgeqwen/trust.d")
    boards["press"].run("systemctl start edgeqwend")


def test_a_board_that_loses_power_while_it_installs(
    provisioned: Controller, publisher: Publisher, boards: Boards
) -> None:
    """Its wave is undone, and the play ends; it comes back with what it had, and the play run again completes."""
    reference = publisher.publish("1.6.0", width=160)
    before = versions(boards)
    slowly = json.dumps({"edgeqwen_install_arguments": ["--limit-rate", "40K"]})
    press = boards["press"]
    with Rollout(provisioned, reference, "-e", slowly) as rollout:
        rollout.wait_until(lambda: press.ssh("ls /var/lib/edgeqwen/store/incoming/*.part").returncode == 0)
        press.cut_power()
    play = rollout.play
    assert play.exit_status != 0
    assert "1 of 3 boards of this wave failed or were lost" in play.text
    assert f"press: lost; it had tiny-float32 {before['press']}" in play.text
    press.boot()
    assert versions(boards) == before
    assert all(answers(board) for board in boards.values())
    again = roll_out(provisioned, reference)
    assert again.exit_status == 0, again.output
    assert versions(boards) == dict.fromkeys(boards, "1.6.0")
    assert active(press)["damage"] == ""


def test_a_board_that_does_not_go_back_is_named(provisioned: Controller, publisher: Publisher, boards: Boards) -> None:
    """Its flash takes no more writes, as at the end of its life. Nobody says that its wave was undone."""
    press = boards["press"]
    have_tried_for(provisioned, press, 3600)
    reference = publisher.publish("1.7.0")
    soon = ("--limit", "press", "-e", "edgeqwen_commit_timeout_s=20")
    with Rollout(provisioned, reference, *soon) as rollout:
        rollout.wait_until(lambda: is_tried(press, "1.7.0"))
        press.run("chattr +i /var/lib/edgeqwen/store")
    press.run("chattr -i /var/lib/edgeqwen/store")
    assert rollout.play.exit_status == 2
    said = rollout.play.text
    assert "1 of 1 boards of this wave failed or were lost: it is undone, but not on press, and no other" in said
    why = "tiny-float32 1.7.0 is still on trial after 20 s.*, and it did not go back: .*cannot write to /var/lib"
    assert re.search(f"press: tiny-float32 1.7.0, {why}", said), rollout.play.output
    assert is_tried(press, "1.7.0")
    press.run("edgeqwen rollback")


def test_a_board_that_loses_power_while_it_switches(
    provisioned: Controller, publisher: Publisher, boards: Boards
) -> None:
    """Its wave goes back without it. It comes back with what it had begun to try, and keeps that if it proves itself;
    the play run again brings it to the others too."""
    lab, press = boards["lab"], boards["press"]
    have_tried_for(provisioned, press, 3600)
    reference = publisher.publish("1.8.0")
    before = versions(boards)
    with Rollout(provisioned, reference, "--limit", "lab,press") as rollout:
        rollout.wait_until(lambda: is_tried(press, "1.8.0"))
        press.cut_power()
    said = rollout.play.text
    assert "1 of 2 boards of this wave failed or were lost: it is undone, but not on press, and no other" in said
    assert f"press: lost; it had tiny-float32 {before['press']}" in said
    assert active(lab)["version"] == before["lab"]
    press.boot()
    assert is_tried(press, "1.8.0")
    assert answers(press)
    have_tried_for(provisioned, press, 2)
    again = roll_out(provisioned, reference)
    assert again.exit_status == 0, again.output
    assert versions(boards) == dict.fromkeys(boards, "1.8.0")
    assert [event for event, _ in events(press, "1.8.0")] == ["installed", "activated", "committed"]
