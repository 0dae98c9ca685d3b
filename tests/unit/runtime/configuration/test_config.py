"""The daemon's configuration: layers, types and faults."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from runtime.access.limits import Limits
from runtime.configuration.config import Config, load_config
from runtime.errors import ConfigError


def test_flags_are_above_the_environment_above_the_file_above_defaults(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text("package: /p\nqueue_limit: 1\nthreads: 1\nslots: 1\n")
    environment = {"EDGEQWEN_THREADS": "2", "EDGEQWEN_SLOTS": "2", "EDGEQWEN_VERIFY": "false", "OTHER": "x"}
    config = load_config(file, environment, {"slots": 3, "variant": None})
    assert (config.queue_limit, config.threads, config.slots) == (1, 2, 3)
    assert (config.package, config.verify, config.drain_timeout_s) == (Path("/p"), False, 30.0)


def test_every_fault_says_which_layer_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text("queue_limit: lots\ncolour: red\n")
    with pytest.raises(ConfigError) as refusal:
        load_config(file, {"EDGEQWEN_THREADS": "none"}, {"listen": "somewhere"})
    assert [str(fault) for fault in refusal.value.faults] == [
        f"colour (from {file}): is not a known key",
        r"listen[0] (from flag): must match ^(unix:.+|[^:]+:\d{1,5}|\[.+\]:\d{1,5})$ (got 'somewhere')",
        "package: is required, unless there is a `store`",
        f"queue_limit (from {file}): must be a valid integer (got 'lots')",
        "threads (from environment): must be a valid integer (got 'none')",
    ]


@pytest.mark.parametrize("content", ["- a\n- b\n", "{", "text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "d.yaml").write_text(content)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "d.yaml", {}, {})


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("")
    assert load_config(tmp_path / "d.yaml", {}, {"package": Path("p")}).queue_limit == 64


LIMITS = [field.name for field in dataclasses.fields(Limits)]

SPELLED = {
    "package": ("/p", Path("/p")),
    "variant": ("board", "board"),
    "store": (
        "{path: /s, commit_after_calls: 9}",
        {"path": Path("/s"), "commit_after_s": 600.0, "commit_after_calls": 9, "budget_bytes": None},
    ),
    "more_packages": ("/q,/r", [Path("/q"), Path("/r")]),
    "packages_dir": ("/d", Path("/d")),
    "adapters_dir": ("/a", Path("/a")),
    "listen": ("[::1]:50051,unix:/s", ("[::1]:50051", "unix:/s")),
    "socket_group": ("staff", "staff"),
    "connections": ("9", 9),
    "connections_per_user": ("3", 3),
    "insecure": ("1", True),
    "http_listen": ("127.0.0.1:8000", "127.0.0.1:8000"),
    "metrics_listen": ("127.0.0.1:9464", "127.0.0.1:9464"),
    "otel": (
        "{endpoint: 'http://localhost:4317', headers: {a: b}, sample_ratio: 0.5}",
        {"endpoint": "http://localhost:4317", "insecure": False, "headers": {"a": "b"}, "sample_ratio": 0.5},
    ),
    "queue_limit": ("7", 7),
    "limits": (
        "{default: {output_tokens: 5}, clients: {'uid:7': {output_tokens: null, requests_per_minute: 9}}}",
        {
            "default": dict.fromkeys(LIMITS) | {"output_tokens": 5},
            "clients": {"uid:7": dict.fromkeys(LIMITS) | {"requests_per_minute": 9}},
        },
    ),
    "drain_timeout_s": ("2.5", 2.5),
    "stall_timeout_s": ("12.5", 12.5),
    "low_power_battery_percent": ("20", 20.0),
    "verify": ("0", False),
    "threads": ("3", 3),
    "slots": ("2", 2),
    "context_tokens": ("128", 128),
    "max_message_bytes": ("2048", 2048),
    "device": ("NPU", "NPU"),
    "share_prefix": ("off", "off"),
    "speculate": ("0", False),
    "shrink_kv": ("0", False),
    "simulate": ("1", True),
    "deterministic": ("1", True),
    "state_dir": ("/somewhere", Path("/somewhere")),
    "log_format": ("json", "json"),
    "log_level": ("debug", "debug"),
}


IN_THE_FILE_ONLY = {"tls": None, "tokens": {}, "clients": {}}


def test_every_setting_can_come_from_the_environment() -> None:
    """Each gets its own type from text; a setting added later must be added here."""
    assert set(SPELLED) | set(IN_THE_FILE_ONLY) == set(Config.model_fields)
    for unset in ({"package": None, "variant": None}, {"store": None}):
        environment = {f"EDGEQWEN_{key.upper()}": text for key, (text, _) in SPELLED.items() if key not in unset}
        expected = {key: value for key, (_, value) in SPELLED.items()} | IN_THE_FILE_ONLY | unset
        assert load_config(None, environment, {}).model_dump() == expected


def test_what_is_above_says_whether_a_package_or_a_store_is_served(tmp_path: Path) -> None:
    """So `edgeqwen bench PACKAGE` works on a board that serves a store; in one place both are a fault."""
    file = tmp_path / "d.yaml"
    file.write_text("store: {path: /s, commit_after_s: 30}\n")
    below = load_config(file, {}, {})
    assert (below.package, below.store and (below.store.path, below.store.commit_after_s)) == (None, (Path("/s"), 30.0))
    above = load_config(file, {}, {"package": Path("/p")})
    assert (above.package, above.store) == (Path("/p"), None)
    file.write_text("package: /p\nvariant: board\n")
    config = load_config(file, {"EDGEQWEN_STORE": "/s"}, {})
    assert (config.package, config.variant, config.store and config.store.path) == (None, None, Path("/s"))
    file.write_text("package: /p\nvariant: board\nstore: /s\n")
    with pytest.raises(ConfigError) as refusal:
        load_config(file, {}, {})
    assert [str(fault) for fault in refusal.value.faults] == [
        f"{name} (from {file}): cannot be set beside `store`" for name in ("package", "variant")
    ]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("verify", "maybe"),
        ("queue_limit", "1.5"),
        ("queue_limit", "0"),
        ("drain_timeout_s", "nan"),
        ("drain_timeout_s", "inf"),
        ("drain_timeout_s", "-1"),
        ("max_message_bytes", "4 MiB"),
        ("log_level", "loud"),
        ("metrics_listen", "9464"),
        ("otel", "{"),
        ("otel", "http://localhost:4317"),
        ("limits", "{"),
        ("limits", "7"),
        ("listen", "unix:"),
        ("listen", ":50051"),
        ("listen", "::1:50051"),
        ("listen", "localhost"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(key: str, text: str) -> None:
    """The one fault names the setting and the layer."""
    with pytest.raises(ConfigError) as refusal:
        load_config(None, {"EDGEQWEN_PACKAGE": "p", f"EDGEQWEN_{key.upper()}": text}, {})
    path = "listen[0]" if key == "listen" else key
    assert [fault.path for fault in refusal.value.faults] == [f"{path} (from environment)"]


def test_a_fault_in_a_layer_that_is_overridden_does_not_count() -> None:
    """What a flag says hides what the environment says wrongly."""
    environment = {"EDGEQWEN_PACKAGE": "p", "EDGEQWEN_SLOTS": "many"}
    assert load_config(None, environment, {"slots": 2}).slots == 2


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a: b: c", b"!!python/object:os.system {}"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """Missing, no text, no YAML, or YAML that would run code: the error names the file."""
    if content is not None:
        (tmp_path / "d.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"d\.yaml: cannot be read"):
        load_config(tmp_path / "d.yaml", {}, {"package": Path("p")})


def test_limits_of_a_client_are_its_own_then_the_defaults(tmp_path: Path) -> None:
    """Null lifts a default; who is not named has the defaults."""
    (tmp_path / "d.yaml").write_text(
        "package: p\n"
        "limits:\n"
        "  default: {requests_per_minute: 30, output_tokens: 256}\n"
        "  clients:\n"
        "    uid:1000: {output_tokens: 512}\n"
        "    user:root: {requests_per_minute: null, concurrent_requests: 2}\n"
    )
    book = load_config(tmp_path / "d.yaml", {}, {}).limits.book
    assert book.of("anybody") == Limits(requests_per_minute=30, output_tokens=256)
    assert book.of("uid:1000") == Limits(requests_per_minute=30, output_tokens=512)
    assert book.of("uid:0") == Limits(concurrent_requests=2, output_tokens=256)


def test_every_fault_of_limits_has_its_path(tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    file.write_text("package: p\nlimits: {default: {requests: 1}, clients: {uid:1: {tokens_per_minute: 0}}}\n")
    with pytest.raises(ConfigError) as refusal:
        load_config(file, {}, {})
    assert [str(fault) for fault in refusal.value.faults] == [
        f"limits.clients.uid:1.tokens_per_minute (from {file}): must be >= 1 (got 0)",
        f"limits.default.requests (from {file}): is not a known key",
    ]
