"""What all tests share. Set before any library reads it: no hub, no telemetry, no tokenizer threads."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["EDGEQWEN_STATE_DIR"] = "/nowhere"  # what somebody measured on this machine changes no test

# A shell that starts pytest in the background has it ignore Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("ours", deadline=None)  # no test may fail on time
hypothesis.settings.register_profile("few", deadline=None, max_examples=5)  # by --hypothesis-profile
hypothesis.settings.load_profile("ours")

REPO = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests run after all fast ones, so that a broken unit is reported before a package is built."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Tests of some backends need what the others do not have, so they must be asked for by their marker."""
    markers = [name for name in ("openvino", "qnn") if collection_path.name.startswith(f"test_{name}")]
    return True if any(name not in config.option.markexpr for name in markers) else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout with real tokenizers, configurations and corpora; a test skips without it."""
    folder = REPO.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("needs ../shared: real tokenizers, configurations, corpora")
    return folder


@pytest.fixture(scope="session")
def build_cache() -> Path:
    """A folder that outlives the run, for what is slow to make, keyed by content; `make demo` caches there too."""
    folder = REPO / "build"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
