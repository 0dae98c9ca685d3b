"""Settings of who may call: what is refused, and that no secret is in the refusal."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from runtime.access.tokens import digest_of, make_token
from runtime.configuration.access_settings import roles_of
from runtime.configuration.config import Config, load_config
from runtime.errors import ConfigError

DIGEST = digest_of("x")
ME = pwd.getpwuid(os.geteuid()).pw_name


def load(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "d.yaml"
    file.write_text(f"package: /p\n{text}")
    return load_config(file, {}, {})


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        f"""
listen: ["unix:/run/s", "0.0.0.0:50051"]
tls: {{certificate: /c.pem, key: /c.key, client_ca: /ca.pem}}
tokens: {{gateway: "{DIGEST}"}}
clients:
  user:{ME}: [observe]
  uid:4000000: []
  token:gateway: [generate, admin]
  certificate:spiffe://fleet/pump: [observe]
  "certificate:*": []
  address:127.0.0.1: [observe]
""",
    )
    assert config.listen == ("unix:/run/s", "0.0.0.0:50051")
    assert config.tls is not None
    assert config.tls.client_ca == Path("/ca.pem")
    assert roles_of(config.clients) == {
        f"uid:{os.geteuid()}": {"observe"},
        "uid:4000000": set(),
        "token:gateway": {"generate", "admin"},
        "certificate:spiffe://fleet/pump": {"observe"},
        "certificate:*": set(),
        "address:127.0.0.1": {"observe"},
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tls: {certificate: c}", "tls.key (from FILE): is required"),
        ("tls: {certificate: c, key: k, ca: x}", "tls.ca (from FILE): is not a known key"),
        (
            "tls: {certificate: c, key: k}",
            "tls (from FILE): needs `client_ca` or `tokens` beside it: nothing else tells",
        ),
        ("tls: {certificate: c, key: k, client_ca: a}\ninsecure: true", "insecure (from FILE): is for TCP without TLS"),
        (f"tokens: {{'a b': '{DIGEST}'}}", "must match"),
        ("clients: {root: [admin]}", "must match"),
        ("clients: {'uid:x': [admin]}", "must match"),
        ("clients: {'uid:1': [boss]}", "must be 'generate', 'observe' or 'admin' (got 'boss')"),
        ("clients: {'uid:1': admin}", "must be a valid list"),
        ("clients: {'token:x': [admin]}", "clients.token:x (from FILE): is no name in `tokens`"),
        (
            "clients: {'user:no such user': [admin]}",
            "clients.user:no such user (from FILE): is no user of this machine",
        ),
        ("clients: {'user:root': [admin], 'uid:0': []}", "clients.uid:0 (from FILE): is the same user as user:root"),
        ("limits: {clients: {pump: {output_tokens: 1}}}", "must match"),
        ("limits: {clients: {'uid:*': {output_tokens: 1}}}", "must match"),
        (
            "limits: {clients: {'token:x': {output_tokens: 1}}}",
            "limits.clients.token:x (from FILE): is no name in `tokens`",
        ),
        ("listen: []", "listen (from FILE): must"),
        ("listen: [nowhere]", "listen[0] (from FILE): must match"),
        ("listen: ['unix:/a', 'unix:/a']", "listen (from FILE): must not name an address twice"),
        ("insecure: 'yes'", "insecure (from FILE): must be a valid boolean"),
    ],
)
def test_what_does_not_go_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, text)
    assert fault in str(refusal.value).replace(str(tmp_path / "d.yaml"), "FILE")


def test_faults_of_access_come_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, "tls: {certificate: c, key: k}\ninsecure: true\nclients: {'token:x': [], 'token:y': []}")
    assert [fault.path.partition(" ")[0] for fault in refusal.value.faults] == [
        "clients.token:x",
        "clients.token:y",
        "insecure",
        "tls",
    ]


def test_a_token_in_the_place_of_its_digest_is_not_shown(tmp_path: Path) -> None:
    """What is refused goes to the log, where others read it."""
    token = make_token()
    with pytest.raises(ConfigError, match=r"tokens\.pump .*must be `sha256:` and 64 hexadecimal digits") as refusal:
        load(tmp_path, f"tokens: {{pump: {token}}}")
    assert token not in str(refusal.value)
