"""The device that most of these tests begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.runtime.rollout.a_device import Device


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """1.0.0 is committed, 2.0.0 is installed."""
    device = Device(tmp_path)
    device.activate(device.install("1.0.0"), commit=True)
    device.install("2.0.0")
    return device
