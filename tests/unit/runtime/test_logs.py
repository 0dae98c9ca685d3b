"""Log lines: one event each, for a machine or for a person, whoever writes them."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
import structlog

from runtime.logs import configure


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging as it was before the test."""
    root = logging.getLogger()
    handlers, level, saved = root.handlers[:], root.level, structlog.get_config()
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    structlog.configure(**saved)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_lines_begin_with_when_and_what() -> None:
    """Each line parses; text is not escaped more than JSON needs."""
    stream = io.StringIO()
    configure("json", "info", stream)
    structlog.get_logger().bind(request_id="r1").info("started", model="größe")
    line = stream.getvalue()
    assert list(json.loads(line)) == ["timestamp", "level", "event", "request_id", "model"]
    assert line.count("\n") == 1
    assert "größe" in line


def test_what_libraries_log_looks_the_same() -> None:
    """The standard library's records and warnings, from warnings on."""
    stream = io.StringIO()
    configure("json", "info", stream)
    logging.getLogger("grpc").info("chatter")
    logging.getLogger("grpc").error("lost %s", "it")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(event["level"], event["event"].split("\n")[0]) for event in events][:1] == [("error", "lost it")]
    assert "UserWarning: old" in events[1]["event"]
    assert len(events) == 2


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variables(form: str) -> None:
    """They hold what users wrote."""
    stream = io.StringIO()
    configure(form, "info", stream)
    prompt = "se" + "cret"
    try:
        int(prompt[:3])
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("grpc").exception("failed")
    assert stream.getvalue().count("invalid literal") == 2
    assert "secret" not in stream.getvalue()


def test_auto_is_for_a_person_on_a_terminal_and_for_a_machine_elsewhere() -> None:
    terminal, file = Terminal(), io.StringIO()
    configure("auto", "info", terminal)
    structlog.get_logger().info("ready")
    configure("auto", "info", file)
    structlog.get_logger().info("ready")
    assert "\x1b[" in terminal.getvalue()
    assert json.loads(file.getvalue())["event"] == "ready"


@pytest.mark.parametrize(("level", "written"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_nothing_below_the_level_is_written(level: str, written: int) -> None:
    stream = io.StringIO()
    configure("json", level, stream)
    log = structlog.get_logger()
    for method in (log.debug, log.info, log.warning, log.error):
        method("event")
    assert len(stream.getvalue().splitlines()) == written


def test_it_loads_no_rich() -> None:
    """Megabytes that a daemon has no use for; and it hides rich from nobody else."""
    code = "import sys, runtime.logs; print('rich' in sys.modules); import rich"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_event_is_one_line_whatever_is_in_it() -> None:
    """Line ends and objects that JSON does not know neither split a line nor raise."""
    stream = io.StringIO()
    configure("json", "info", stream)
    structlog.get_logger().info("two\nlines", what=object, where={1, 2}, raw=b"\xff")
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue())["event"] == "two\nlines"
