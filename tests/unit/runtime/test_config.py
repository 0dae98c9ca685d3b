"""The daemon's configuration: layers, types and faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.config import load_config
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
        r"listen (from flag): must match ^(unix:.+|[^:]+:\d{1,5}|\[.+\]:\d{1,5})$ (got 'somewhere')",
        "package: is required",
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
