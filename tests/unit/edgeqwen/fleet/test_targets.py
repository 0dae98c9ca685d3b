"""`edgeqwen fleet targets`: what Prometheus discovers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from promtool import promtool

from edgeqwen.cli import main

HOSTS: dict[str, dict[str, Any]] = {
    "pump-1": {"edgeqwen_target": "https://10.0.0.1:50443", "edgeqwen_variant": "raspberry-pi-5"},
    "pump-2": {"edgeqwen_target": "https://[fd00::2]:50443", "edgeqwen_fleet_group": "west"},
    "pump-3": {"edgeqwen_target": "unix:/run/x.sock", "edgeqwen_metrics_target": "{{ inventory_hostname }}:9100"},
    "pump-4": {"edgeqwen_target": "unix:/run/x.sock"},
}


def run(folder: Path, *arguments: str, hosts: dict[str, dict[str, Any]] = HOSTS) -> Result:
    listed = {"_meta": {"hostvars": hosts}, "pumps": {"hosts": ["pump-1", "pump-2"]}}
    (folder / "fleet.json").write_text(json.dumps(listed))
    return CliRunner().invoke(main, ["fleet", "targets", "-i", str(folder / "fleet.json"), *arguments])


def test_each_board_has_its_address_and_labels(tmp_path: Path) -> None:
    """The host of its daemon, unless the inventory says otherwise; what it does not say is no label."""
    done = run(tmp_path, "--port", "9999")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == [
        {
            "targets": ["10.0.0.1:9999"],
            "labels": {"board": "pump-1", "group": "pumps", "profile": "raspberry-pi-5"},
        },
        {"targets": ["[fd00::2]:9999"], "labels": {"board": "pump-2", "group": "west"}},
        {"targets": ["pump-3:9100"], "labels": {"board": "pump-3"}},
    ]
    assert done.stderr == "edgeqwen: 1 boards have a socket and no edgeqwen_metrics_target, and are left out: pump-4\n"


def test_promtool_takes_the_file(tmp_path: Path) -> None:
    """In a configuration as the guide has it."""
    run(tmp_path, "-o", str(tmp_path / "targets.json"))
    (tmp_path / "prometheus.yml").write_text(
        "scrape_configs: [{job_name: edgeqwen, file_sd_configs: [{files: [targets.json]}]}]\n"
    )
    promtool("check", "config", tmp_path / "prometheus.yml")


def test_a_file_is_replaced_as_a_whole_and_only_if_it_differs(tmp_path: Path) -> None:
    """The second time nothing is written; a reader that has it open reads on in the old one."""
    file = tmp_path / "targets.json"
    done = [run(tmp_path, "-o", str(file), "--json") for _ in range(2)]
    assert [json.loads(each.stdout)["changed"] for each in done] == [True, False]
    assert json.loads(done[0].stdout) == {"changed": True, "file": str(file), "boards": 3, "left_out": ["pump-4"]}
    before = file.stat()
    with file.open() as reader:
        changed = run(tmp_path, "-o", str(file), hosts={"pump-1": HOSTS["pump-1"]})
        assert len(json.load(reader)) == 3
    assert changed.stdout == f"{file}: 1 boards\n"
    assert len(json.loads(file.read_text())) == 1
    assert file.stat().st_ino != before.st_ino
    assert run(tmp_path, "-o", str(file), hosts={"pump-1": HOSTS["pump-1"]}).stdout == f"{file}: 1 boards, as before\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet.json", "targets.json"]


def test_others_may_read_it(tmp_path: Path) -> None:
    """Prometheus is another user: the file has the mode that files have here."""
    before = os.umask(0o022)
    try:
        run(tmp_path, "-o", str(tmp_path / "targets.json"))
    finally:
        os.umask(before)
    assert (tmp_path / "targets.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("place", ["nowhere/targets.json", "fleet.json/targets.json"])
def test_what_cannot_be_written_is_one_line_and_1(tmp_path: Path, place: str) -> None:
    done = run(tmp_path, "-o", str(tmp_path / place))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith(f"edgeqwen: cannot write {tmp_path / place}: ")
    assert done.stdout == ""
