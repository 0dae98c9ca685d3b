"""`edgeqwen token`."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import yaml
from click.testing import CliRunner, Result

from runtime.access.tokens import Tokens
from runtime.token_command import token


def run(*arguments: str) -> Result:
    return CliRunner().invoke(token, list(arguments))


def test_a_token_goes_to_stdout_and_its_line_to_stderr() -> None:
    """So that a script can keep the one; the other is YAML that the daemon's configuration takes."""
    done = run("gateway")
    assert done.exit_code == 0
    made = done.stdout.strip()
    assert Tokens(yaml.safe_load(done.stderr)["tokens"]).name_of(made) == "gateway"
    assert made not in done.stderr


def test_a_file_is_for_its_owner_only_and_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "t"
    done = run("gateway", "--out", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = file.read_text().strip()
    assert Tokens(yaml.safe_load(done.stdout)["tokens"]).name_of(made) == "gateway"
    assert made not in done.output
    again = run("gateway", "--out", str(file))
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    assert file.read_text().strip() == made
    assert run("gateway", "--out", str(tmp_path / "none" / "t")).exit_code == 1


def test_json() -> None:
    made = json.loads(run("gateway", "--json").stdout)
    assert Tokens({made["name"]: made["digest"]}).name_of(made["token"]) == "gateway"


def test_a_name_is_one_that_the_configuration_takes() -> None:
    for name in ("", "a b", "-x", "é", "a" * 65, "a\n"):
        assert run("--", name).exit_code == 2
