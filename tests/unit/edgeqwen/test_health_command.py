"""`edgeqwen health` and `edgeqwen power`, for people and for monitoring."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from click.testing import CliRunner, Result
from fakes import ScriptedSession
from serving import serving

from edgeqwen.cli import main
from edgeqwen.client import AsyncClient, Client
from edgeqwen.v1 import health_pb2 as pb
from edgeqwen.v1 import health_pb2_grpc

OK, DEGRADED, FAILED = pb.CHECK_STATUS_OK, pb.CHECK_STATUS_DEGRADED, pb.CHECK_STATUS_FAILED
HOT = pb.Check(
    name="temperature",
    status=DEGRADED,
    summary="81.0 C; the limit is 80 C.",
    recommendation="Give the board air.",
    value=81.0,
    bound=80.0,
    unit="C",
)
STUCK = pb.Check(name="engine", model="m", status=FAILED, summary="No step ends.", recommendation="Restart it.")
WELL = pb.Check(name="disk", status=OK, summary="900 MB are free.", value=9e8, bound=5e8, unit="bytes")

Answer = Callable[[grpc.ServicerContext], pb.HealthReport]


class _Health(health_pb2_grpc.HealthServicer):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def GetHealthReport(  # noqa: N802 - the name is the contract's
        self, request: pb.GetHealthReportRequest, context: grpc.ServicerContext
    ) -> pb.HealthReport:
        return self._answer(context)


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(_Health(answer), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


def run(target: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--target", target, *arguments])


@pytest.mark.parametrize(
    ("checks", "status", "exit_code", "first"),
    [
        ([WELL], OK, 0, "ok"),
        ([HOT, WELL], DEGRADED, 1, "degraded: temperature"),
        ([STUCK, HOT, WELL], FAILED, 2, "failed: engine of m, temperature"),
    ],
)
def test_the_first_line_and_the_exit_status_are_for_monitors(
    checks: list[pb.Check], status: int, exit_code: int, first: str
) -> None:
    """The first line names what is not well; every check follows, with what to do."""
    with answering(lambda _: pb.HealthReport(status=status, checks=checks)) as target:
        done = run(target, "health")
        as_json = run(target, "health", "--json")
    assert (done.exit_code, as_json.exit_code) == (exit_code, exit_code)
    line, *others = done.stdout.splitlines()
    assert line == first
    assert all(any(check.summary in other for other in others) for check in checks)
    assert all(any(check.recommendation in other for other in others) for check in checks)
    found = json.loads(as_json.stdout)
    assert found["status"] == first.partition(":")[0]
    assert [check["name"] for check in found["checks"]] == [check.name for check in checks]


def test_json_has_the_figures_and_null_where_there_is_none() -> None:
    with answering(lambda _: pb.HealthReport(status=FAILED, checks=[HOT, STUCK])) as target:
        hot, stuck = json.loads(run(target, "health", "--json").stdout)["checks"]
    assert (hot["value"], hot["bound"], hot["unit"], hot["model"]) == (81.0, 80.0, "C", None)
    assert (stuck["value"], stuck["bound"], stuck["unit"], stuck["model"]) == (None, None, "", "m")


def test_no_daemon_is_a_failure_that_monitors_see() -> None:
    """On the first line of stdout, where they look."""
    done = run("unix:/nowhere.sock", "health")
    assert done.exit_code == 2
    assert done.stdout.startswith("failed: nothing listens at unix:/nowhere.sock")
    found = json.loads(run("unix:/nowhere.sock", "health", "--json").stdout)
    assert (found["status"], found["checks"]) == ("failed", [])


def test_who_may_not_ask_cannot_tell() -> None:
    def refuse(context: grpc.ServicerContext) -> pb.HealthReport:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for you")
        raise AssertionError

    with answering(refuse) as target:
        done = run(target, "health")
    assert done.exit_code == 3
    assert done.stdout.startswith("unknown: ")


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    with serving(ScriptedSession()) as target:
        yield target


def test_a_daemon_is_asked(target: str) -> None:
    """The real service over a scripted session: its engine is well."""
    with Client(target) as client:
        report = client.health_report()
    assert next(check.status for check in report.checks if check.name == "engine") == OK


async def test_from_asyncio_too(target: str) -> None:
    async with AsyncClient(target) as client:
        assert len((await client.health_report()).checks) > 8
        assert await client.set_power_mode("low") == "low power was asked for"
        assert await client.set_power_mode("normal") == ""


def lowered(target: str, level: int) -> str:
    """What status shows once telemetry, whose samples are some tenths of a second old, knows of that level."""
    with Client(target) as client:
        while client.snapshot().models[0].engine.throttle.level != level:
            pass
    return " ".join(run(target, "status").stdout.split())


def test_power_is_saved_and_status_says_so(target: str) -> None:
    """Until it is called off."""
    assert run(target, "power", "low").stdout == "power is saved: low power was asked for\n"
    assert "low power was asked for: 2 rows, 50% of the time" in lowered(target, level=2)
    assert run(target, "power", "normal").stdout == "power is not saved\n"
    assert "lowered" not in lowered(target, level=0)
    assert run(target, "power", "off").exit_code == 2
