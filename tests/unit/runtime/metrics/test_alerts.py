"""The alerts that are shipped: Prometheus's own tool runs their tests, and what they ask for is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from promtool import promtool

from edgeqwen.v1 import telemetry_pb2 as pb
from runtime.engine.request_meter import RequestMeter
from runtime.metrics.families import families

FOLDER = Path(__file__).parents[4] / "docs" / "prometheus"

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the checkout"),
    pytest.mark.parametrize("rules", ["alerts", "fleet-alerts"]),
]


def test_the_rules_are_rules(rules: str) -> None:
    promtool("check", "rules", FOLDER / f"{rules}.yml")


def test_they_fire_when_they_should_and_not_before(rules: str) -> None:
    """The tests have a board or a fleet that is well, and one for each thing that can go wrong."""
    promtool("test", "rules", FOLDER / f"{rules}.test.yml")


def test_each_alert_is_seen_to_fire(rules: str) -> None:
    """In the tests of the rules, with its texts."""
    named = re.findall(r"- alert: (\w+)", (FOLDER / f"{rules}.yml").read_text(encoding="utf-8"))
    tests = (FOLDER / f"{rules}.test.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"alertname: (\w+)\n +exp_alerts:", tests)) == set(named)


def test_they_ask_for_families_that_there_are(rules: str) -> None:
    """With the suffixes of counters, histograms and facts."""
    told = list(families(pb.Snapshot(), {"m": RequestMeter().read()}))
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}
    names = {f"{family.name}{suffix}" for family in told for suffix in suffixes.get(family.type, ("",))}
    asked = set(re.findall(r"edgeqwen_\w+", (FOLDER / f"{rules}.yml").read_text(encoding="utf-8")))
    assert asked - {"edgeqwen_throttle_reason"} <= names
    assert "edgeqwen_throttle_reason" in names
