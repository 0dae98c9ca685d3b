"""Dashboards as files, and what Prometheus makes of their queries."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integration.prometheus import Prometheus

FOLDER = Path(__file__).parents[2] / "docs" / "grafana"
_VARIABLES = {"$__rate_interval": "10s", "$instance": ".*", "$model": ".*", "$group": ".*"}


def panels(file: Path) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in json.loads(file.read_text())["panels"] if panel["type"] != "row"]


def require_data(file: Path, prometheus: Prometheus, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Each query of each panel gives series with numbers, and the labels that its legend names.

    `meanwhile` runs before each is asked: who asks nothing of a board has no rate.
    """
    for panel in panels(file):
        for query in panel["targets"]:
            meanwhile()
            series = prometheus.wait_for(_filled(query["expr"]), lambda found: "NaN" not in map(_value, found))
            for label in re.findall(r"{{(\w+)}}", query["legendFormat"]):
                assert any(label in each["metric"] for each in series), (panel["title"], label)


def require_choices(file: Path, prometheus: Prometheus) -> None:
    """`label_values` of what its variables name: the series are there, with the label."""
    for variable in json.loads(file.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found is not None
            assert any(found[2] in each["metric"] for each in prometheus.wait_for(_filled(found[1])))


def _value(series: dict[str, Any]) -> str:
    return str(series["value"][1])


def _filled(expression: str) -> str:
    """With Grafana's variables replaced as it does."""
    for name, value in _VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression
