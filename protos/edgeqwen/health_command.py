"""`edgeqwen health` and `edgeqwen power`: how the daemon is, for people and for monitoring, and saving power."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from .client import Client
from .errors import ClientError, DeadlineExceeded, ServerUnavailable
from .operations import PowerMode
from .v1 import health_pb2 as pb

# As monitoring plugins have it: https://www.monitoring-plugins.org/doc/guidelines.html
_EXIT_CODES = {pb.CHECK_STATUS_OK: 0, pb.CHECK_STATUS_DEGRADED: 1, pb.CHECK_STATUS_FAILED: 2}
_UNKNOWN = 3
_NAMES = {pb.CHECK_STATUS_OK: "ok", pb.CHECK_STATUS_DEGRADED: "degraded", pb.CHECK_STATUS_FAILED: "failed"}
_COLOURS = {pb.CHECK_STATUS_OK: "green", pb.CHECK_STATUS_DEGRADED: "yellow", pb.CHECK_STATUS_FAILED: "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--timeout", "timeout_s", type=float, default=10.0, show_default=True, help="In seconds.")
@click.pass_obj
def health(target: Any, as_json: bool, timeout_s: float) -> None:
    """What is well, what is not, and what to do about it.

    \b
    Exit status, as monitoring plugins have it: 0 ok, 1 degraded, 2 failed or no answer,
    3 nobody can tell, as this user may not ask.
    """
    try:
        with Client(target) as client:
            report = client.health_report(timeout_s=timeout_s)
    except ClientError as error:
        gone = isinstance(error, ServerUnavailable | DeadlineExceeded)
        _print_error(error, "failed" if gone else "unknown", as_json=as_json)
        sys.exit(_EXIT_CODES[pb.CHECK_STATUS_FAILED] if gone else _UNKNOWN)
    click.echo(json.dumps(_as_json(report))) if as_json else _print(report)
    sys.exit(_EXIT_CODES.get(report.status, _UNKNOWN))


@click.command()
@click.argument("mode", type=click.Choice(["normal", "low"]))
@click.pass_obj
def power(target: Any, mode: PowerMode) -> None:
    """Save power from now on (low), or no longer (normal), until the next such call or a restart."""
    with Client(target) as client:
        saving = client.set_power_mode(mode)
    click.echo(f"power is saved: {saving}" if saving else "power is not saved")


def _print(report: pb.HealthReport) -> None:
    """The first line says all that a monitor shows; then a line for each check, with what to do below it."""
    wrong = dict.fromkeys(_subject(check) for check in report.checks if check.status != pb.CHECK_STATUS_OK)
    first = _NAMES.get(report.status, "unknown")
    click.secho(f"{first}: {', '.join(wrong)}" if wrong else first, fg=_COLOURS.get(report.status), bold=True)
    width = max((len(_subject(check)) for check in report.checks), default=0)
    for check in report.checks:
        click.secho(f"{_NAMES.get(check.status, 'unknown'):8}", fg=_COLOURS.get(check.status), nl=False)
        click.echo(f"  {_subject(check):{width}}  {check.summary}")
        if check.recommendation:
            click.echo(f"{'':8}  {'':{width}}  {check.recommendation}")


def _subject(check: pb.Check) -> str:
    return f"{check.name} of {check.model}" if check.model else check.name


def _as_json(report: pb.HealthReport) -> dict[str, object]:
    checks = [
        {
            "name": check.name,
            "model": check.model or None,
            "status": _NAMES.get(check.status, "unknown"),
            "summary": check.summary,
            "recommendation": check.recommendation,
            "value": check.value if check.HasField("value") else None,
            "bound": check.bound if check.HasField("bound") else None,
            "unit": check.unit,
        }
        for check in report.checks
    ]
    status = _NAMES.get(report.status, "unknown")
    return {"status": status, "time_unix_ms": report.time_unix_ms, "checks": checks}


def _print_error(error: ClientError, status: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"status": status, "error": str(error), "checks": []}))
    else:
        click.secho(f"{status}: {error}", fg="red", bold=True)
