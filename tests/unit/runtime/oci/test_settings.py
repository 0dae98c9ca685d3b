"""`registries.yaml` and the flags over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from runtime.errors import ConfigError
from runtime.oci.options import pulling_options, reaching_options, settings_of
from runtime.oci.reference import Mirror
from runtime.oci.settings import DEFAULT_FILE, Settings, load_settings

FULL = """\
mirrors: [http://cache.plant.example:5000, "mirror.example/edge"]
limit_rate: 2M
proxy: http://proxy.plant.example:3128
ca_file: /etc/edgeqwen/registry-ca.pem
auth_file: /etc/edgeqwen/registry-auth.json
plain_http: ["10.0.0.5:5000"]
"""


def settings_by(tmp_path: Path, *arguments: str, content: str = "", env: dict[str, str] | None = None) -> Any:
    """What a command with these options gets, or how it ends."""
    file = tmp_path / "registries.yaml"
    file.write_text(content)
    found: list[Settings] = []

    @click.command()
    @pulling_options
    def command(**flags: Any) -> None:
        found.append(settings_of(flags))

    done = CliRunner().invoke(command, ["--registries", str(file), *arguments], env=env)
    return found[0] if found else done


def test_a_file_says_all_there_is_to_say(tmp_path: Path) -> None:
    settings = settings_by(tmp_path, content=FULL)
    assert settings.mirrors == (Mirror("cache.plant.example:5000", "", True), Mirror("mirror.example", "edge"))
    assert settings.bytes_per_s == 2 << 20
    assert settings.plain_hosts == {"10.0.0.5:5000"}
    assert settings.ca_file == Path("/etc/edgeqwen/registry-ca.pem")


def test_flags_count_more_than_the_file(tmp_path: Path) -> None:
    flags = ("--mirror", "one", "--mirror", "two", "--limit-rate", "5K", "--proxy", "http://p:1", "--ca-file", "ca.pem")
    settings = settings_by(tmp_path, *flags, "--retries", "0", content=FULL)
    assert [mirror.host for mirror in settings.mirrors] == ["one", "two"]
    assert (settings.bytes_per_s, settings.proxy, settings.ca_file) == (5120, "http://p:1", Path("ca.pem"))
    assert settings.auth_file == Path("/etc/edgeqwen/registry-auth.json")
    assert settings.patience.retries == 0


def test_every_fault_of_a_file_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "registries.yaml"
    file.write_text("mirrors: [UP/CASE/, ok.example, 7]\nlimit_rate: fast\nproxi: x\nplain_http: a\n")
    with pytest.raises(ConfigError) as raised:
        load_settings(file)
    assert [fault.path for fault in raised.value.faults] == ["limit_rate", "mirrors[0]", "plain_http", "proxi"]


@pytest.mark.parametrize("content", ["[", "- a", "7", "!!python/object/apply:os.system [id]", "a: &a [*a]"])
def test_a_file_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "registries.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as raised:
        load_settings(file)
    assert "\n" not in str(raised.value)


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    """The default one need not."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "missing.yaml")
    assert DEFAULT_FILE.exists() or load_settings(None) == Settings()


@pytest.mark.parametrize("env", [{}, {"EDGEQWEN_REGISTRY_PASSWORD": "from the environment"}])
def test_a_password_comes_from_a_file_or_the_environment(tmp_path: Path, env: dict[str, str]) -> None:
    """The file counts more. A command line, which others see, has none."""
    (tmp_path / "password").write_text("from the file\n")
    settings = settings_by(tmp_path, "--username", "fleet", "--password-file", str(tmp_path / "password"), env=env)
    assert settings.credentials == ("fleet", "from the file")
    settings = settings_by(
        tmp_path, env={"EDGEQWEN_REGISTRY_USERNAME": "fleet", "EDGEQWEN_REGISTRY_PASSWORD": "secret"}
    )
    assert settings.credentials == ("fleet", "secret")
    assert settings_by(tmp_path, env=env).credentials is None


@pytest.mark.parametrize("flags", [("--username", "fleet"), ("--password-file", "-")])
def test_half_of_what_shows_who_we_are_is_refused(tmp_path: Path, flags: tuple[str, ...]) -> None:
    done = settings_by(tmp_path, *flags)
    assert done.exit_code == 2
    assert "belong together" in done.stderr


def test_a_password_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    done = settings_by(tmp_path, "--username", "fleet", "--password-file", str(tmp_path / "password"))
    assert done.exit_code == 2
    assert "cannot read the password" in done.stderr


def test_a_push_has_no_flags_of_a_pull() -> None:
    @click.command()
    @reaching_options
    def command(**flags: Any) -> None:
        assert settings_of(flags | {"registries": Path("/dev/null")}).bytes_per_s is None

    assert CliRunner().invoke(command, ["--limit-rate", "2M"]).exit_code == 2
    assert CliRunner().invoke(command, []).exit_code == 0
