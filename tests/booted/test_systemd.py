"""The service under a real systemd, as process 1 of its own namespaces, on a root that is a copy.

`make test-systemd` runs them; others do not, as they need root and rights that a container may lack.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from booted.machine import missing, run_scenario
from integration.packages import build_package

pytestmark = [pytest.mark.systemd, pytest.mark.skipif(bool(missing()), reason=missing() or "it can be had")]


@pytest.fixture(scope="module")
def parts(build_cache: Path) -> dict[str, str]:
    return run_scenario(build_package("int4", "generic-x86_64", cache=build_cache))


def shown(text: str) -> dict[str, str]:
    """Properties that systemctl printed, the last of each name."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_it_is_installed_and_serves_from_its_sandbox(parts: dict[str, str]) -> None:
    """Not there before; then active, answering, with the documented owners and modes, and able to read its sensors."""
    assert "state      not installed" in parts["before"]
    assert parts["before"].endswith("status 3")
    text = parts["installed"]
    assert re.findall(r"^status (\d)", text, re.MULTILINE) == ["0", "0", "0"]
    assert "state      active" in text
    assert "says       serving smollm2-135m-instruct-int4 at unix:/run/edgeqwen/edgeqwend.sock" in text
    assert "edgeqwen edgeqwen 750\nedgeqwen edgeqwen 660\nroot edgeqwen 640\nedgeqwen edgeqwen 750\n" in text
    told = json.loads(text.splitlines()[-1])
    assert int(told["machine"]["memory_total_bytes"]) > 0


def test_telemetry_reads_and_nothing_can_be_written(parts: dict[str, str]) -> None:
    """Within the daemon's mounts, as its user: figures of the kernel are there, /sys and /etc are read-only, and of
    devices there are those that every program has."""
    text = parts["seen from within"]
    assert re.findall(r"^(/\S+) ([1-9]\d*)$", text, re.MULTILINE) == []
    assert re.findall(r"^/\S+ 0$", text, re.MULTILINE)
    assert "write /sys 0" not in text
    assert "write /etc 0" not in text
    assert set(text.splitlines()[-1].split()) >= {"null", "zero", "urandom"}
    assert not re.search(r"\b(vda|kmsg|mem|kvm|fuse)\b", text.splitlines()[-1])


def test_the_group_may_ask_and_others_may_not(parts: dict[str, str]) -> None:
    assert "member 0" in parts["group"]
    assert "stranger 69" in parts["group"]


def test_a_reload_takes_what_can_change_and_names_the_rest(parts: dict[str, str]) -> None:
    """And the service is active afterwards, in the same process."""
    assert '"changed": ["log_level"]' in parts["reload"]
    assert shown(parts["reload"])["ActiveState"] == "active"
    assert shown(parts["reload"])["NRestarts"] == "0"


def test_a_faulty_file_fails_the_reload_and_nothing_else(parts: dict[str, str]) -> None:
    text = parts["reload of a faulty file"]
    assert re.findall(r"^status (\d)", text, re.MULTILINE) == ["1", "0"]
    assert shown(text)["ActiveState"] == "active"


def test_a_faulty_file_stays_failed_with_its_reason(parts: dict[str, str]) -> None:
    """Exit status 3 is not tried again."""
    text = parts["start with a faulty file"]
    properties = shown(text)
    assert (properties["ActiveState"], properties["ExecMainStatus"], properties["NRestarts"]) == ("failed", "3", "0")
    assert "exit status 3: the configuration cannot be used" in text


def test_a_killed_daemon_comes_back(parts: dict[str, str]) -> None:
    assert parts["killed"].endswith("status 0")


def test_the_watchdog_ends_an_engine_that_hangs(parts: dict[str, str]) -> None:
    """The event loop still runs, so only the engine can have stopped the pings; the journal shows where it stood."""
    text = parts["hung"]
    assert shown(text)["Result"] == "watchdog"
    assert "the watchdog ended it: the engine made no step" in text
    assert "the engine makes no step: the watchdog is no longer fed" in text
    assert 'hanging_daemon.py", line' in text
    assert "One, two" not in text


def test_a_package_that_crashes_at_each_start_is_rolled_back_whatever_starts_are_allowed(parts: dict[str, str]) -> None:
    """This machine's start limit would end the service at its second start; the fourth serves the package before."""
    text = parts["a package that crashes at each start"]
    assert re.findall(r"^status (\d)", text, re.MULTILINE) == ["0"] * 5
    properties = shown(text)
    assert (properties["SubState"], properties["NRestarts"]) == ("running", "3")
    last = json.loads(text.splitlines()[-1])["history"][-1]
    assert (last["event"], last["version"], last["by"]) == ("rolled_back", "2.0.0", "edgeqwend")
    assert last["why"].startswith("3 starts with it")


def test_uninstall_leaves_what_is_the_operators(parts: dict[str, str]) -> None:
    """Configuration and packages, until --purge."""
    text = parts["uninstalled"]
    assert re.findall(r"^status (\d)", text, re.MULTILINE) == ["0", "0", "0"]
    before, _, after = text.partition("remove   /etc/edgeqwen")
    assert "\n/etc/edgeqwen/edgeqwend.yaml" in before
    assert "\n/var/lib/edgeqwen/test.ortpackage" in before
    assert "\n/usr/local/bin/edgeqwend" not in before.partition("\n/etc/edgeqwen")[2]
    assert after.count("No such file or directory") == 2
