"""Which boards an inventory has, and what is said of one that cannot be used."""

from __future__ import annotations

import io
import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeqwen.fleet.board import InventoryError, natural
from edgeqwen.fleet.hosts import Identity, boards_of
from edgeqwen.fleet.inventory import read_inventory

NOBODY = Identity()
BESIDE = str(Path(sys.executable).parent)
needs_ansible = pytest.mark.skipif(
    (shutil.which("ansible-inventory") or shutil.which("ansible-inventory", path=BESIDE)) is None,
    reason="needs ansible-inventory: pip install 'edgeqwen[fleet]'",
)
HOSTS_YML = """\
all:
  vars:
    edgeqwen_target: "https://{{ ansible_host }}:50443"
    edgeqwen_client_ca: ca.pem
  children:
    pi5:
      hosts:
        pump-[9:10]: {}
        valve-1: {ansible_host: 10.0.0.7, edgeqwen_fleet_group: valves}
      vars: {edgeqwen_variant: raspberry-pi-5}
    site_a: {children: {pi5: {}}}
    servers:
      hosts:
        registry: {edgeqwen_target: null}
"""
HOSTS_INI = """\
[pi5]
pump-[9:10]
valve-1 ansible_host=10.0.0.7 edgeqwen_fleet_group=valves

[pi5:vars]
edgeqwen_variant=raspberry-pi-5

[site_a:children]
pi5

[site_a:vars]
edgeqwen_target=https://{{ ansible_host }}:50443
edgeqwen_client_ca=ca.pem

[servers]
registry
"""


@needs_ansible
@pytest.mark.parametrize(("name", "content"), [("hosts.yml", HOSTS_YML), ("hosts.ini", HOSTS_INI), ("h", HOSTS_INI)])
def test_ansibles_inventory_is_read_as_ansible_reads_it(tmp_path: Path, name: str, content: str) -> None:
    """Ranges, groups within groups, their variables, and those of a host before them."""
    (tmp_path / name).write_text(content)
    (tmp_path / "ca.pem").write_text("a certificate")
    found = read_inventory(str(tmp_path / name), NOBODY)
    assert [board.name for board in found.boards] == ["pump-9", "pump-10", "valve-1"]
    pump, _, valve = found.boards
    assert (pump.connection.target, valve.connection.target) == ("https://pump-9:50443", "https://10.0.0.7:50443")
    assert {board.connection.ca for board in found.boards} == {tmp_path / "ca.pem"}
    assert (pump.groups, pump.group, pump.profile) == (("pi5", "site_a"), "pi5", "raspberry-pi-5")
    assert valve.group == "valves"
    assert found.left_out == ("registry",)


@needs_ansible
def test_a_folder_with_group_vars_and_a_program_are_inventories_too(tmp_path: Path) -> None:
    """Whatever `ansible-inventory -i` takes."""
    (tmp_path / "inventory" / "group_vars").mkdir(parents=True)
    (tmp_path / "inventory" / "hosts.yml").write_text("pumps: {hosts: {pump-1: {}}}")
    (tmp_path / "inventory" / "group_vars" / "pumps.yml").write_text("edgeqwen_target: unix:/run/x.sock")
    program = tmp_path / "inventory" / "cmdb"
    told = {
        "valves": {"hosts": ["valve-1"], "vars": {"edgeqwen_target": "unix:/run/y.sock"}},
        "_meta": {"hostvars": {}},
    }
    program.write_text(f"#!/bin/sh\necho '{json.dumps(told)}'\n")
    program.chmod(0o755)
    found = read_inventory(str(tmp_path / "inventory"), NOBODY)
    assert {board.name: board.connection.target for board in found.boards} == {
        "pump-1": "unix:/run/x.sock",
        "valve-1": "unix:/run/y.sock",
    }


@needs_ansible
@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("h.yml", "all:\n  hosts: [a\n", "YAML parsing failed"),
        ("h.ini", "pump-1\n", "there is no board in it: none of its 1 hosts has edgeqwen_target"),
        ("h.ini", "pump-1 edgeqwen_target=pump-1\n", "pump-1: a target is unix:PATH or HOST:PORT"),
    ],
)
def test_what_ansible_does_not_understand_is_one_line(tmp_path: Path, name: str, content: str, why: str) -> None:
    """With the file's name before it."""
    (tmp_path / name).write_text(content)
    with pytest.raises(InventoryError) as raised:
        read_inventory(str(tmp_path / name), NOBODY)
    assert str(raised.value).startswith(f"{tmp_path / name}: ")
    assert why in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_without_ansible_it_says_what_else_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program on the PATH, none beside this Python."""
    (tmp_path / "hosts.yml").write_text(HOSTS_YML)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(
        InventoryError, match=r"ansible-inventory is not here: pip install 'edgeqwen\[fleet\]', or give"
    ):
        read_inventory(str(tmp_path / "hosts.yml"), NOBODY)


def test_a_list_has_targets_and_names(tmp_path: Path) -> None:
    """A board without a name is called by its target."""
    (tmp_path / "boards.txt").write_text(
        "# ours\n\npump-10 10.0.0.10:50051\npump-9 unix:/run/x.sock # here\n10.0.0.1:1\n"
    )
    found = read_inventory(str(tmp_path / "boards.txt"), NOBODY)
    assert [(board.name, board.connection.target) for board in found.boards] == [
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("pump-9", "unix:/run/x.sock"),
        ("pump-10", "10.0.0.10:50051"),
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "there is no board in it"),
        (b"# only remarks\n", "there is no board in it"),
        (b"a b c\n", "line 1: a line is TARGET, or NAME TARGET"),
        (b"a:1\na:1\n", "line 2: a:1 is there already"),
        (b"\npump\n", "line 2: a target is unix:PATH or HOST:PORT"),
        (b"\x1b[31mred a:1\n", r"line 1: '\x1b[31mred' is no name for a board"),
        (b"a:1\n\xff\n", "it is not UTF-8 text (byte 4)"),
    ],
)
def test_a_bad_list_is_one_line(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "b.txt").write_bytes(content)
    with pytest.raises(InventoryError) as raised:
        read_inventory(str(tmp_path / "b.txt"), NOBODY)
    assert str(raised.value).startswith(f"{tmp_path / 'b.txt'}")
    assert why in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"cannot read .*: No such file or directory"):
        read_inventory(str(tmp_path / "none.yml"), NOBODY)


def listed(hosts: dict[str, dict[str, Any]], **groups: Any) -> dict[str, Any]:
    """As `ansible-inventory --list` prints it."""
    return {"_meta": {"hostvars": hosts}, "all": {"children": ["ungrouped", *groups]}, **groups}


@pytest.mark.parametrize("source", ["-", "fleet.json"])
def test_what_ansible_printed_elsewhere_needs_no_ansible(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file and from standard input."""
    text = json.dumps(listed({"a": {"edgeqwen_target": "unix:/a"}}, pumps={"hosts": ["a"]}))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.json").write_text(text)
    [board] = read_inventory(source, NOBODY).boards
    assert (board.name, board.groups) == ("a", ("pumps",))


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"edgeqwen_target": "https://{{ ansible_host | upper }}:1"}, "write it without filters"),
        ({"edgeqwen_target": "{{ a }}:1", "a": "{{ edgeqwen_target }}"}, "names itself"),
        ({"edgeqwen_target": "{{ nothing }}:1"}, "nothing, which another variable names, is not set"),
        ({"edgeqwen_target": {"__ansible_vault": "..."}}, "must be text"),
        ({"edgeqwen_target": True}, "must be text"),
        ({"edgeqwen_target": "https://a:1", "edgeqwen_client_ca": "none.pem"}, "cannot read /f/none.pem"),
        ({"edgeqwen_target": "https://a:1", "edgeqwen_client_key": "k"}, "belong together"),
        ({"edgeqwen_target": "https://a:1", "edgeqwen_client_token_file": "t"}, "cannot read the token in /f/t"),
        ({"edgeqwen_target": "https://a:1", "edgeqwen_variant": "a\nb"}, "'a.nb' is no name for a profile"),
        ({"edgeqwen_target": "https://a:1", "edgeqwen_fleet_group": "\ud800"}, "is no name for a group"),
        ({"edgeqwen_target": "https://a:1", "edgeqwen_metrics_target": "a"}, "a target is"),
        ({"edgeqwen_target": "https://a:1", "edgeqwen_metrics_target": "https://a:9465"}, "is HOST:PORT"),
    ],
)
def test_a_host_that_cannot_be_used_is_named(variables: dict[str, Any], why: str) -> None:
    with pytest.raises(InventoryError, match=f"^pump-1: .*{why}"):
        boards_of(listed({"pump-1": variables}), NOBODY, Path("/f"))


@pytest.mark.parametrize(
    "printed",
    [
        [],
        {},
        {"_meta": []},
        {"_meta": {"hostvars": {"a": []}}},
        {"_meta": {"hostvars": {}}, "pumps": []},
        {"_meta": {"hostvars": {}}, "pumps": {"hosts": {"a": {}}}},
        {"_meta": {"hostvars": {}}, "pumps": {"children": [1]}},
        {"_meta": {"hostvars": {}}, "pumps": {"hosts": ["a"], "vars": {"edgeqwen_target": "unix:/a"}}},
    ],
)
def test_what_ansible_does_not_print_is_refused(printed: Any) -> None:
    """Also group variables, which would be lost: they are printed with the hosts."""
    with pytest.raises(InventoryError):
        boards_of(printed, NOBODY, Path("/f"))


def test_the_flags_are_for_boards_that_have_nothing_else(tmp_path: Path) -> None:
    """A board's own token and certificates count before them; sockets need no certificate."""
    for name in ("ca", "own", "crt", "key"):
        (tmp_path / name).write_text("x")
    (tmp_path / "token").write_text("its-own\n")
    flags = Identity(ca=tmp_path / "ca", certificate=tmp_path / "crt", key=tmp_path / "key", token="ours")
    hosts = {
        "here": {"edgeqwen_target": "unix:/a"},
        "other": {
            "edgeqwen_target": "https://b:1",
            "edgeqwen_client_ca": "own",
            "edgeqwen_client_token_file": str(tmp_path / "token"),
        },
        "plain": {"edgeqwen_target": "https://c:1"},
    }
    here, other, plain = (board.connection for board in boards_of(listed(hosts), flags, tmp_path).boards)
    assert (here.ca, here.certificate, here.token) == (None, None, "ours")
    assert (other.ca, other.certificate, other.token) == (tmp_path / "own", tmp_path / "crt", "its-own")
    assert (plain.ca, plain.key, plain.token) == (tmp_path / "ca", tmp_path / "key", "ours")


def test_groups_may_meet_again_and_name_each_other() -> None:
    """Each board once in each group; a ring ends."""
    hosts = {"a": {"edgeqwen_target": "unix:/a"}}
    groups = {"x": {"children": ["y", "z"]}, "y": {"children": ["x"], "hosts": ["a"]}, "z": {"children": ["y"]}}
    found = boards_of(listed(hosts, **groups), NOBODY, Path("/"))
    assert found.boards[0].groups == ("x", "y", "z")
    assert found.of_group("z").boards == found.boards
    with pytest.raises(InventoryError, match="no board is in a group 'nobody'; it has x, y, z"):
        found.of_group("nobody")


@given(st.lists(st.integers(0, 10_000), unique=True))
def test_names_are_in_the_order_in_which_people_count(numbers: list[int]) -> None:
    """Also where zeros fill them up."""
    names = sorted((f"pump-{number}" for number in numbers), key=natural)
    assert names == [f"pump-{number}" for number in sorted(numbers)]
    filled = sorted((f"pump-{number:06}" for number in numbers), key=natural)
    assert filled == [f"pump-{number:06}" for number in sorted(numbers)]


@given(st.permutations(["pump-1", "pump-01", "pump-001", "pump", "pump-", "pump-1a", "pump-10", "1", "01"]))
def test_names_that_count_alike_have_one_order(names: list[str]) -> None:
    """So that a file that is made of them changes only if they do."""
    ordered = ["01", "1", "pump", "pump-", "pump-001", "pump-01", "pump-1", "pump-1a", "pump-10"]
    assert sorted(names, key=natural) == ordered


JSON = st.recursive(
    st.none() | st.booleans() | st.text(), lambda some: st.lists(some) | st.dictionaries(st.text(), some)
)


@given(JSON)
def test_whatever_is_printed_is_boards_or_one_refusal(some: Any) -> None:
    """Never another error."""
    a_host = listed({"a": {"edgeqwen_target": some}}, g=some)
    for printed in (some, {"_meta": some}, {"_meta": {"hostvars": some}}, a_host):
        with suppress(InventoryError):
            boards_of(printed, NOBODY, Path("/"))
