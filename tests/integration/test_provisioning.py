"""Ansible's files, as far as no board is needed: tests/fleet has the boards."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from certificates import Authority

pytestmark = pytest.mark.slow

ANSIBLE = Path(__file__).parents[2] / "provisioning" / "ansible"


def ansible(program: str, *arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """One of Ansible's programs, with a home folder of the test's."""
    bin_folder = Path(sys.executable).parent
    environment = {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "ANSIBLE_NOCOLOR": "1",
    }
    return subprocess.run(
        [bin_folder / program, *arguments],
        cwd=ANSIBLE,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Of one board that gets everything; what the controller brings is beside it."""
    authority = Authority(tmp_path)
    pair = authority.issue("press")
    (tmp_path / "release.pem").write_text("a public key\n")
    (tmp_path / "auth.json").write_text('{"auths": {}}\n')
    variables = {
        "edgeqwen_version": "0.1.0",
        "edgeqwen_wheelhouse": "https://wheels.example.com/wheels/",
        "edgeqwen_package": "oci://registry.example.com/it's:1.0.0",
        "edgeqwen_config": {"listen": ["unix:/run/edgeqwen/edgeqwend.sock", "0.0.0.0:50443"]},
        "edgeqwen_tls": {
            "certificate": str(pair.certificate),
            "key": str(pair.key),
            "client_ca": str(authority.file),
        },
        "edgeqwen_trust_roots": [str(tmp_path / "release.pem")],
        "edgeqwen_registries": {"mirrors": ["cache.site.example:5000"], "limit_rate": "2M"},
        "edgeqwen_registry_ca": str(authority.file),
        "edgeqwen_registry_auth": str(tmp_path / "auth.json"),
        "edgeqwen_group_members": ["pi"],
    }
    file = tmp_path / "inventory.yml"
    file.write_text(yaml.safe_dump({"edgeqwen": {"hosts": {"press": {}}, "vars": variables}}))
    return file


def test_the_playbooks_are_as_ansible_lint_wants_them(tmp_path: Path) -> None:
    done = ansible("ansible-lint", "--offline", "--profile=production", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_inventory_is_one(tmp_path: Path) -> None:
    """Every playbook takes it, and finds its boards."""
    for playbook in ("provision.yml", "rollout.yml", "cloud-init.yml"):
        done = ansible("ansible-playbook", "-i", "inventory.example.yml", playbook, "--list-hosts", home=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "hosts (21)" in done.stdout


def test_waves_that_ansible_would_not_hear_of_are_refused(tmp_path: Path) -> None:
    """In an inventory they do nothing: a thousand boards would be one wave."""
    file = tmp_path / "inventory.yml"
    variables = {"edgeqwen_version": "0.1.0", "edgeqwen_waves": [1, "100%"]}
    file.write_text(yaml.safe_dump({"edgeqwen": {"hosts": {"press": {}}, "vars": variables}}))
    done = ansible("ansible-playbook", "-i", file, "provision.yml", home=tmp_path)
    assert done.returncode == 2
    assert "edgeqwen_waves does nothing in an inventory" in done.stdout + done.stderr


def test_user_data_has_what_the_board_needs(inventory: Path, tmp_path: Path) -> None:
    """Files as they are on the controller, a script that a shell can read, and no key that others can."""
    done = ansible("ansible-playbook", "-i", inventory, "cloud-init.yml", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    file = tmp_path / "user-data" / "press.yaml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("#cloud-config\n")
    data = yaml.safe_load(file.read_text())
    content = {written["path"]: written["content"] for written in data["write_files"]}
    mode = {written["path"]: written["permissions"] for written in data["write_files"]}
    folder = "/etc/edgeqwen"
    assert content[f"{folder}/tls/key.pem"] == (tmp_path / "press.key").read_text()
    assert content[f"{folder}/trust.d/release.pem"] == "a public key\n"
    assert yaml.safe_load(content[f"{folder}/registries.yaml"])["ca_file"] == f"{folder}/registry-ca.pem"
    assert yaml.safe_load(content[f"{folder}/edgeqwend.yaml"])["tls"]["client_ca"] == f"{folder}/tls/client_ca.pem"
    secret = [path for path in content if "tls/" in path or "auth" in path or path.endswith("edgeqwend.yaml")]
    assert {mode[path] for path in secret} <= {"0640", "0600"}
    script = content["/usr/local/sbin/edgeqwen-first-boot"]
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert "install 'oci://registry.example.com/it'\"'\"'s:1.0.0'" in script


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ('{"edgeqwen_wheelhouse": "wheels.tar"}', "a board at its first boot needs a URL"),
        ('{"edgeqwen_tls": {"certificat": "board.pem"}}', "certificat"),
        ('{"edgeqwen_poll_s": "often"}', "edgeqwen_poll_s"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    inventory: Path, tmp_path: Path, variable: str, says: str
) -> None:
    done = ansible("ansible-playbook", "-i", inventory, "cloud-init.yml", "-e", variable, home=tmp_path)
    assert done.returncode == 2
    assert says in done.stdout + done.stderr
    assert not (tmp_path / "user-data").exists()
