"""A daemon whose package cannot be brought back leaves, so that its next start serves what the state says."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import pytest
from serving import make_entrance
from unit.runtime.fake_engine import TIMEOUT_S
from unit.runtime.rollout.a_daemon import NEVER
from unit.runtime.rollout.a_device import MB, Device, NoMeasure

from edgeqwen.client import AsyncClient, ClientError
from runtime.access.address import Address
from runtime.configuration.config import Config
from runtime.errors import SessionError
from runtime.lifecycle.assembly import Daemon
from runtime.lifecycle.observability import Observability
from runtime.lifecycle.reload import Reloader
from runtime.lifecycle.running import run
from runtime.lifecycle.services import make_services
from runtime.rollout.boot import Boot
from runtime.rollout.rollouts import Rollouts


async def test_it_ends_with_an_error_and_its_next_start_serves(device: Device) -> None:
    """Its state has flipped before; systemd starts it again for this exit status, and not for 2, 3 or 4."""
    device.free_bytes = 150 * MB
    models = device.models()
    models.add(Boot(device.store, device.load_at, device.canary().try_at_start).model(), started=True)
    rollouts = Rollouts(device.store, models, device.canary(NoMeasure), NEVER, stalled=lambda engine: False)
    entrance = make_entrance()
    services = make_services(models, 1 << 20, entrance, rollouts=rollouts)
    daemon = Daemon(models, entrance, services, Observability(), rollouts=rollouts)
    config = Config(store=device.store.folder)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="eq-", dir="/tmp") as folder:
        target = f"unix:{folder}/s"
        async with asyncio.timeout(TIMEOUT_S):
            running = asyncio.create_task(
                run(daemon, [Address(target)], Reloader(lambda: config, config), time.monotonic())
            )
            while not Path(f"{folder}/s").exists():
                await asyncio.sleep(0)
            async with AsyncClient(target) as client:
                assert [reply async for reply in client.activate()][-1].changed
                device.failing.add("1.0.0")
                with pytest.raises(ClientError):
                    await client.roll_back()
            with pytest.raises(SessionError, match="another start serves it") as left:
                await running
    assert left.value.exit_code not in (0, 2, 3, 4)
    device.failing.clear()
    model = Boot(device.store, device.load_at, device.canary().try_at_start).model()
    model.engine.stop()
    assert model.facts.package_version == "1.0.0"
