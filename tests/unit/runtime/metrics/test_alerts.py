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

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the checkout")


def test_the_rules_are_rules() -> None:
    promtool("check", "rules", FOLDER / "alerts.yml")


def test_they_fire_when_they_should_and_not_before() -> None:
    """alerts.test.yml has a board that is well, and one for each thing that can go wrong."""
    promtool("test", "rules", FOLDER / "alerts.test.yml")


def test_they_ask_for_families_that_there_are() -> None:
    """With the suffixes of counters and histograms."""
    told = list(families(pb.Snapshot(), {"m": RequestMeter().read()}))
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    names = {f"{family.name}{suffix}" for family in told for suffix in suffixes.get(family.type, ("",))}
    asked = set(re.findall(r"edgeqwen_\w+", (FOLDER / "alerts.yml").read_text(encoding="utf-8")))
    assert asked - {"edgeqwen_throttle_reason"} <= names
    assert "edgeqwen_throttle_reason" in names
