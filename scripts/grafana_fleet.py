"""Writes docs/grafana/edgeqwen-fleet.json, a dashboard of many boards together.

Run it after a change here or in grafana_panels.py; a test compares the file with what this makes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from grafana_panels import RATE, Panel, Query, Variable, document

OUTPUT = Path(__file__).parents[1] / "docs" / "grafana" / "edgeqwen-fleet.json"
GROUP = 'group=~"$group"'
UP = f'up{{job="edgeqwen", {GROUP}}}'
SHOWN = 30
"""Boards in a panel: those that need a look."""

HELD_BACK = f"max by (instance) (edgeqwen_throttled{{{GROUP}}} or edgeqwen_governor_level{{{GROUP}}})"
STATE = f"max by (instance) ({UP} * 2) - ({HELD_BACK} > bool 0) or max by (instance) ({UP} * 2)"
STATES = {"0": ("down", "red"), "1": ("held back", "orange"), "2": ("well", "green")}
FIRST_TOKEN = (
    "histogram_quantile(0.95, sum by (le, instance)"
    f" (rate(edgeqwen_time_to_first_token_seconds_bucket{{{GROUP}}}{RATE})))"
)
HOTTEST = f"max by (instance) (edgeqwen_temperature_celsius{{{GROUP}}})"
VERSIONS = f"count by (model, package_version) (edgeqwen_model_info{{{GROUP}}})"
ON_TRIAL = f'edgeqwen_package_info{{trial="true", {GROUP}}}'


def total(name: str) -> str:
    return f"sum(edgeqwen_{name}{{{GROUP}}})"


def or_zero(expression: str) -> str:
    """Counts of nothing are no series."""
    return f"{expression} or vector(0)"


ROWS: dict[str, list[Panel]] = {
    "Fleet": [
        Panel("Boards that answer", "Prometheus.", [Query(f"sum({UP})", "boards")], kind="number", width=4),
        Panel(
            "Boards that do not",
            "`edgeqwen fleet status` has the reasons.",
            [Query(or_zero(f"count({UP} == 0)"), "boards")],
            kind="number",
            width=4,
        ),
        Panel(
            "Held back",
            "By heat, by their power supply, or to save power.",
            [Query(or_zero(f"count({HELD_BACK} > 0)"), "boards")],
            kind="number",
            width=4,
        ),
        Panel(
            "On trial",
            "Boards whose package is neither kept nor given up yet.",
            [Query(or_zero(f"count({ON_TRIAL})"), "boards")],
            kind="number",
            width=4,
        ),
        Panel(
            "Tokens per second",
            "Generated, by all boards.",
            [Query(f"sum(rate(edgeqwen_completion_tokens_total{{{GROUP}}}{RATE}))", "tokens/s")],
            kind="number",
            width=4,
        ),
        Panel(
            "Requests that wait",
            "On all boards.",
            [Query(total("requests_waiting"), "requests")],
            kind="number",
            width=4,
        ),
    ],
    "Rollouts": [
        Panel(
            "Versions",
            "Boards that run each version of each model.",
            [Query(VERSIONS, "{{model}} {{package_version}}")],
            kind="bars",
        ),
        Panel(
            "Versions over time",
            "A rollout moves the boards from one to the next.",
            [Query(VERSIONS, "{{model}} {{package_version}}")],
            kind="stacked",
        ),
        Panel(
            "On trial, and given up",
            "Boards with a package on trial, and packages that were given up in the last hour.",
            [
                Query(f"count by (name, version) ({ON_TRIAL})", "on trial {{name}} {{version}}"),
                Query(or_zero(f"sum(increase(edgeqwen_rollbacks_total{{{GROUP}}}[1h]))"), "given up"),
            ],
        ),
        Panel(
            "Daemons",
            "Boards that run each version of the daemon.",
            [Query(f"count by (version) (edgeqwen_daemon_info{{{GROUP}}})", "{{version}}")],
            kind="bars",
        ),
        Panel(
            "Boards on trial",
            "The package that each tries, and its slot.",
            [Query(ON_TRIAL)],
            kind="table",
            width=16,
            height=8,
        ),
    ],
    "Health": [
        Panel(
            "Boards",
            f"The {SHOWN} that are worst off at each time.",
            [Query(f"bottomk({SHOWN}, {STATE})")],
            kind="states",
            width=24,
            height=12,
            names=STATES,
        ),
        Panel(
            "Side by side",
            f"The {SHOWN} hottest boards, with what else there is to know of them.",
            [
                Query(f"topk({SHOWN}, {HOTTEST})", "hottest, C"),
                Query(STATE, "0 down, 1 held back, 2 well"),
                Query(f"sum by (instance) (edgeqwen_requests_waiting{{{GROUP}}})", "waiting"),
                Query(f"sum by (instance) (rate(edgeqwen_completion_tokens_total{{{GROUP}}}{RATE}))", "tokens/s"),
            ],
            kind="table",
            width=24,
            height=10,
        ),
    ],
    "Latency": [
        Panel(
            "Time to first token by board",
            f"What one request in twenty exceeds, on the {SHOWN} slowest boards.",
            [Query(f"topk({SHOWN}, {FIRST_TOKEN})")],
            "s",
            width=12,
        ),
        Panel(
            "Time to first token of all",
            "Of all requests of all boards.",
            [
                Query(
                    f"histogram_quantile({share}, sum by (le)"
                    f" (rate(edgeqwen_time_to_first_token_seconds_bucket{{{GROUP}}}{RATE})))",
                    name,
                )
                for share, name in ((0.5, "median"), (0.95, "p95"))
            ],
            "s",
            width=12,
        ),
    ],
    "Heat": [
        Panel(
            "Hottest boards",
            "By their hottest sensor.",
            [Query(f"topk({SHOWN}, {HOTTEST})")],
            "celsius",
            width=12,
        ),
        Panel(
            "Held back",
            "Boards in each group.",
            [
                Query(
                    "count by (group) (max by (group, instance)"
                    f" (edgeqwen_throttled{{{GROUP}}} or edgeqwen_governor_level{{{GROUP}}}) > 0)",
                    "{{group}}",
                )
            ],
            kind="stacked",
            width=12,
        ),
    ],
}


def render() -> str:
    """The file."""
    variables = [Variable("group", "Group", 'up{job="edgeqwen"}')]
    said = "Many boards together: versions, rollouts, health, latency and heat."
    return document("edgeqwen fleet", "edgeqwen-fleet", said, variables, ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.parse_args().output.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
