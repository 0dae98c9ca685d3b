"""What is told of the board: what its kernel does not tell is not there, which says more than a zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import Metric

from edgeqwen.v1 import telemetry_pb2 as pb

from .building import Row, counter, gauge

_MEMORY = ("memory_total", "memory_available", "swap_total", "swap_free")


def of_machine(machine: pb.MachineInfo) -> Iterator[Metric]:
    """Processor, memory, heat, throttling, GPUs, disks and networks."""
    yield gauge("edgeqwen_machine_cores", "Logical processors that are on line.", (), [((), machine.cores)])
    yield gauge("edgeqwen_machine_busy_ratio", "Busy share of all cores.", (), _known(machine, "cpu_busy"))
    yield gauge("edgeqwen_machine_load1", "One-minute load average.", (), _known(machine, "load_1m"))
    memory = [
        ((kind.removeprefix("memory_"),), getattr(machine, f"{kind}_bytes"))
        for kind in _MEMORY
        if machine.HasField(f"{kind}_bytes")
    ]
    yield gauge("edgeqwen_machine_memory_bytes", "Memory of the machine, and swap.", ("kind",), memory)
    clocks = [((str(core.number),), core.frequency_hz) for core in machine.cpu_cores if core.HasField("frequency_hz")]
    yield gauge("edgeqwen_cpu_frequency_hertz", "Clock of a core.", ("core",), clocks)
    said = "Share of the last 10 seconds in which some or all work waited for it (Linux PSI)."
    yield gauge("edgeqwen_pressure_ratio", said, ("resource", "kind"), _pressures(machine))
    temperatures = by_name((its.sensor, its.celsius) for its in machine.temperatures)
    yield gauge("edgeqwen_temperature_celsius", "Temperature, by sensor.", ("sensor",), temperatures)
    yield from _throttling(machine)
    yield from _gpus(machine.gpus)
    for name, field, said in (
        ("edgeqwen_disk_free_bytes", "free_bytes", "What may still be written to the disk of a folder."),
        ("edgeqwen_disk_size_bytes", "total_bytes", "Size of the disk of a folder."),
    ):
        yield gauge(name, said, ("folder",), [((its.folder,), getattr(its, field)) for its in machine.disks])
    for direction in ("received", "sent"):
        rows = [((its.name,), getattr(its, f"{direction}_bytes")) for its in machine.network]
        said = f"Bytes that were {direction} by a network interface."
        yield counter(f"edgeqwen_network_{direction}_bytes_total", said, ("interface",), rows)


def of_energy(snapshot: pb.Snapshot) -> Iterator[Metric]:
    """What the board uses, and each of its rails."""
    energy = snapshot.energy
    yield gauge("edgeqwen_power_watts", "What the machine uses now.", (), _known(energy, "watts"))
    joules: list[Row] = [((), energy.joules)] if snapshot.HasField("energy") else []
    said = "What the machine has used; starts again after a time for which nothing is known."
    yield counter("edgeqwen_energy_joules_total", said, (), joules)
    said = "Energy of the machine for each token that was generated, over the last minute."
    yield gauge("edgeqwen_energy_per_token_joules", said, (), _known(energy, "joules_per_token"))
    rails = by_name((rail.name, rail.watts) for rail in snapshot.machine.rails)
    yield gauge("edgeqwen_rail_power_watts", "What goes through a power rail.", ("rail",), rails)


def by_name(named: Iterable[tuple[str, float]]) -> list[Row]:
    """Two of one name get a number each: Prometheus refuses a page that has a series twice."""
    seen: dict[str, int] = {}
    rows: list[Row] = []
    for name, value in named:
        seen[name] = seen.get(name, 0) + 1
        rows.append(((name if seen[name] == 1 else f"{name} {seen[name]}",), value))
    return rows


def _known(message: pb.MachineInfo | pb.Energy, field: str) -> list[Row]:
    """The value of a field, if it is set."""
    return [((), getattr(message, field))] if message.HasField(field) else []


def _pressures(machine: pb.MachineInfo) -> Iterator[Row]:
    for resource in ("memory", "cpu", "io"):
        if machine.HasField(f"{resource}_pressure"):
            pressure = getattr(machine, f"{resource}_pressure")
            yield (resource, "some"), pressure.some_avg10 / 100
            if pressure.HasField("full_avg10"):
                yield (resource, "full"), pressure.full_avg10 / 100


def _throttling(machine: pb.MachineInfo) -> Iterator[Metric]:
    reasons = machine.throttling.reasons
    count: list[Row] = [((), len(reasons))] if machine.HasField("throttling") else []
    yield gauge("edgeqwen_throttled", "How many things hold the processor or a GPU back.", (), count)
    rows = [((reason,), 1.0) for reason in reasons]
    yield gauge("edgeqwen_throttle_reason", "What holds the processor or a GPU back now.", ("reason",), rows)


def _gpus(gpus: Iterable[pb.Gpu]) -> Iterator[Metric]:
    named = [(f"{at} {gpu.name}", gpu) for at, gpu in enumerate(gpus)]
    for name, field, said in (
        ("edgeqwen_gpu_busy_ratio", "busy", "Share of the time in which a GPU worked."),
        ("edgeqwen_gpu_frequency_hertz", "frequency_hz", "Clock of a GPU."),
        ("edgeqwen_gpu_memory_used_bytes", "memory_used_bytes", "Memory of its own that a GPU uses."),
        ("edgeqwen_gpu_memory_size_bytes", "memory_total_bytes", "Memory that a GPU has of its own."),
        ("edgeqwen_gpu_temperature_celsius", "celsius", "Temperature of a GPU."),
        ("edgeqwen_gpu_power_watts", "watts", "What a GPU uses."),
    ):
        rows = [((label,), getattr(gpu, field)) for label, gpu in named if gpu.HasField(field)]
        yield gauge(name, said, ("gpu",), rows)
