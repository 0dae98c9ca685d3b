"""How `edgeqwen watch` looks: panels on a terminal, a line a snapshot elsewhere. Draws; asks nobody."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import Console, ConsoleOptions, Group, OverflowMethod, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .history import History, ModelPoint, Point, hottest
from .v1 import telemetry_pb2 as pb

_WIDE = 116  # columns from which panels stand side by side, with room for what was
_NARROW = 56  # below, there is no such room
_NAME, _VALUE = 12, 27  # columns for what a row is of and for what it says
_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", ".:-=+*#@"


class WatchView:
    """The screen. `lost` says why nothing comes, if nothing does."""

    def __init__(self, history: History, interval_ms: int, lost: str = "") -> None:
        self._history = history
        self._interval_ms = interval_ms
        self._lost = lost

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        snapshot = self._history.last
        if snapshot is None:
            yield Text(self._lost or "waiting for the daemon")
            return
        wide = options.max_width >= _WIDE
        width = options.max_width // 2 if wide else options.max_width
        draw = _Draw(self._history, width - 4, ascii_only=options.ascii_only)
        models = [
            Panel(draw.rows(draw.model(each)), title=Text(each.model.name or "model"), title_align="left")
            for each in snapshot.models
        ]
        panels: list[RenderableType] = [
            Group(*models),
            Panel(draw.rows(draw.machine(snapshot)), title="machine", title_align="left"),
        ]
        overflow: OverflowMethod = "crop" if options.ascii_only else "ellipsis"
        yield self._head(snapshot, overflow)
        if self._lost:
            yield Text(self._lost, style="bold red")
        for warning in snapshot.warnings:
            yield Text(warning, style="yellow")
        if errors := told_errors(snapshot):
            yield Text(f"callers got {errors}", style="yellow")
        if wide:
            grid = Table.grid(expand=True)
            grid.add_column(ratio=1)
            grid.add_column(ratio=1)
            grid.add_row(*panels)
            yield grid
        else:
            yield Group(*panels)
        yield Text(f"every {self._interval_ms / 1000:g} s; Ctrl-C leaves", style="dim", overflow=overflow, no_wrap=True)

    def _head(self, snapshot: pb.Snapshot, overflow: OverflowMethod) -> Text:
        process, count = snapshot.process, len(snapshot.models)
        text = Text(overflow=overflow, no_wrap=True)
        text.append("edgeqwend", style="bold")
        text.append(f"  {count or 'no'} model{'' if count == 1 else 's'}  up {duration(snapshot.uptime_s)}")
        text.append(f"  {size(process.rss_bytes)}, {process.cpu_cores:.1f} cores")
        if self._history.restarts:
            text.append(f"  restarted {self._history.restarts} x", style="yellow")
        if any(each.engine.draining for each in snapshot.models):
            text.append("  draining", style="yellow")
        return text


Row = tuple[str, Text, Text]
"""A name, a value, and a picture of it."""


class _Draw:
    """Rows of a panel that is `width` columns wide within its border."""

    def __init__(self, history: History, width: int, *, ascii_only: bool) -> None:
        self._history = history
        self._levels = _ASCII if ascii_only else _BLOCKS
        self._overflow: OverflowMethod = "crop" if ascii_only else "ellipsis"
        self._full, self._empty = ("#", ".") if ascii_only else ("█", "░")
        self._picture = width - _NAME - _VALUE if width >= _NARROW - 4 else 0

    def rows(self, rows: Iterator[Row]) -> Group:
        """One below the other; pictures line up, and a value without one has their room too."""
        lines = []
        for name, value, picture in rows:
            line = Text(name.ljust(_NAME), style="cyan")
            if picture:
                value.truncate(_VALUE - 1, overflow=self._overflow)
                value.pad_right(_VALUE - value.cell_len)
            lines.append(Text.assemble(line, value, picture, no_wrap=True, overflow=self._overflow))
        return Group(*lines)

    def model(self, loaded: pb.LoadedModel) -> Iterator[Row]:
        engine, name = loaded.engine, loaded.model.name
        point = self._history.points[-1].models[name]
        yield "runs", Text(f"{loaded.model.precision} on {loaded.model.provider}", style="dim"), Text()
        yield "tokens/s", _number(point.tokens_per_second, "{:.1f}"), self._of_model(name, "tokens_per_second")
        prompts = self._of_model(name, "prompt_tokens_per_second")
        yield "prompt/s", _number(point.prompt_tokens_per_second, "{:.1f}"), prompts
        first = _number(point.first_token_ms, "{:.0f} ms")
        if engine.HasField("time_to_first_token_p95_ms"):
            first.append(f", {engine.time_to_first_token_p95_ms:.0f} at 95 %", style="dim")
        yield "first token", first, self._of_model(name, "first_token_ms")
        yield "running", Text(f"{engine.running} of {engine.slots}"), self._bar(engine.running, engine.slots)
        yield "waiting", Text(f"{engine.queue_depth} of {engine.queue_limit}"), self._of_model(name, "waiting")
        held = engine.kv_used_tokens + engine.kv_warm_tokens
        kv = Text(f"{held * engine.kv_bytes_per_token / 1e6:.0f} MB, {engine.kv_warm_tokens} tokens warm")
        yield "KV cache", kv, self._bar(held, engine.kv_budget_tokens)
        ended = f"{engine.requests_finished_total} done, {engine.requests_cancelled_total} left,"
        yield "requests", Text(f"{ended} {engine.requests_rejected_total} refused"), Text()
        if engine.throttle.level:
            yield "lowered", Text(lowered(engine.throttle), style="yellow"), Text()
        if age := _hung(engine):
            yield "last step", Text(age, style="bold red"), Text()

    def machine(self, snapshot: pb.Snapshot) -> Iterator[Row]:
        machine, point = snapshot.machine, self._history.points[-1]
        load = Text(_share(point.cpu_busy).lstrip())
        if machine.HasField("load_1m"):
            load.append(f", load {machine.load_1m:.2f}", style="dim")
        yield "cores", load, self._line("cpu_busy", most=1.0)
        yield from self._cores(machine.cpu_cores)
        if point.memory_used is not None:
            free = Text(f"{size(machine.memory_available_bytes)} free of {size(machine.memory_total_bytes)}")
            yield "memory", free, self._line("memory_used", most=1.0)
        if machine.HasField("memory_pressure"):
            waits = [f"{name} {of.some_avg10:.0f} %" for name, of in _pressures(machine)]
            yield "stalled", Text(", ".join(waits)), Text()
        if (hot := hottest(machine)) is not None:
            yield (
                "hottest",
                Text(f"{hot.celsius:.1f} C {hot.sensor}", style=_heat(hot.celsius)),
                self._line("hottest_c"),
            )
        if machine.HasField("throttling"):
            reasons = ", ".join(machine.throttling.reasons)
            yield "throttled", Text(reasons or "no", style="bold red" if reasons else ""), Text()
        if snapshot.HasField("energy"):
            covers = ", ".join(snapshot.energy.covers)
            yield "power", _number(point.watts, "{:.1f} W").append(f" {covers}", style="dim"), self._line("watts")
        if snapshot.energy.HasField("joules_per_token"):
            yield "energy", Text(f"{snapshot.energy.joules_per_token:.2f} J a token"), Text()
        for gpu in machine.gpus:
            yield "GPU", Text(_gpu(gpu)), self._bar(gpu.busy, 1.0) if gpu.HasField("busy") else Text()
        for rail in machine.rails:
            yield "rail", Text(f"{rail.watts:.2f} W {rail.name}"), Text()
        for disk in machine.disks:
            room = Text(f"{size(disk.free_bytes)} free")
            yield "disk", room, self._bar(disk.total_bytes - disk.free_bytes, disk.total_bytes)
            if disk.HasField("read_bytes_per_second"):
                moved = (size(disk.read_bytes_per_second), size(disk.written_bytes_per_second))
                yield "", Text("{}/s read, {}/s written".format(*moved)), Text()
        for port in machine.network:
            if port.received_bytes or port.sent_bytes:
                text = Text(port.name)
                if port.HasField("received_bytes_per_second"):
                    moved = (size(port.received_bytes_per_second), size(port.sent_bytes_per_second))
                    text.append(", {}/s in, {}/s out".format(*moved))
                yield "network", text, Text()

    def _cores(self, cores: Sequence[pb.CpuCore]) -> Iterator[Row]:
        if len(cores) > 16:  # a row each would fill the screen: one column each does
            levels = [core.busy if core.HasField("busy") else None for core in cores]
            yield f"{len(cores)} cores", Text(spark(levels, self._levels, most=1.0), style="green"), Text()
            return
        for core in cores:
            value = Text(_share(core.busy if core.HasField("busy") else None))
            if core.HasField("frequency_hz"):
                value.append(f"  {core.frequency_hz / 1e9:.2f} GHz", style="dim")
            yield f"  {core.number}", value, self._bar(core.busy, 1.0)

    def _line(self, name: str, most: float | None = None) -> Text:
        return self._curve(self._history.of(name), most)

    def _of_model(self, model: str, name: str) -> Text:
        return self._curve(self._history.of_model(model, name))

    def _curve(self, values: Sequence[float | None], most: float | None = None) -> Text:
        if not self._picture:
            return Text()
        return Text(spark(values[-self._picture :], self._levels, most), style="green")

    def _bar(self, part: float, whole: float) -> Text:
        if not self._picture:
            return Text()
        share = min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
        width = min(20, self._picture)
        filled = math.ceil(share * width) if share > 0.01 else 0
        style = "red" if share > 0.9 else "yellow" if share > 0.75 else "green"
        return Text(self._full * filled, style=style).append(self._empty * (width - filled), style="dim")


def line_of(snapshot: pb.Snapshot, point: Point) -> str:
    """A snapshot in a line, for logs and pipes."""
    machine = snapshot.machine
    parts = [datetime.fromtimestamp(snapshot.time_unix_ms / 1000).strftime("%H:%M:%S")]
    for each in snapshot.models:
        parts.append(", ".join(_model_parts(each.engine, point.models[each.model.name])))
        if len(snapshot.models) > 1:
            parts[-1] = f"{each.model.name}: {parts[-1]}"
    if point.cpu_busy is not None:
        parts.append(f"cores {point.cpu_busy:.0%}")
    if machine.HasField("memory_available_bytes"):
        parts.append(f"{size(machine.memory_available_bytes)} free")
    if point.hottest_c is not None:
        parts.append(f"{point.hottest_c:.1f} C")
    if point.watts is not None:
        parts.append(f"{point.watts:.1f} W")
    if machine.throttling.reasons:
        parts.append(f"throttled: {', '.join(machine.throttling.reasons)}")
    if errors := told_errors(snapshot):
        parts.append(f"errors: {errors}")
    return " | ".join(parts)


def _model_parts(engine: pb.EngineInfo, point: ModelPoint) -> Iterator[str]:
    yield f"{engine.running}/{engine.slots} run"
    yield f"{engine.queue_depth} wait"
    if point.tokens_per_second is not None:
        yield f"{point.tokens_per_second:.1f} tokens/s"
    if point.first_token_ms is not None:
        yield f"first token {point.first_token_ms:.0f} ms"
    if engine.throttle.level:
        yield f"lowered: {lowered(engine.throttle)}"
    if engine.draining:
        yield "draining"


def told_errors(snapshot: pb.Snapshot) -> str:
    """Such as `12 UNAUTHENTICATED, 3 NOT_FOUND`: what callers got instead of answers since the start, most first."""
    totals: Counter[str] = Counter()
    for each in snapshot.call_errors:
        totals[each.code] += each.total
    return ", ".join(f"{total} {code}" for code, total in totals.most_common())


def lowered(throttle: pb.Throttle) -> str:
    """Why the engine may use less of the board, and what it may use."""
    threads = f", {throttle.threads} threads" if throttle.HasField("threads") else ""
    return f"{throttle.reason}: {throttle.rows} rows{threads}, {throttle.share:.0%} of the time"


def spark(values: Sequence[float | None], levels: str = _BLOCKS, most: float | None = None) -> str:
    """A column a value, scaled to the highest or to `most`; None is a gap."""
    top = most or max((value for value in values if value is not None), default=0.0)
    drawn = []
    for value in values:
        if value is None:
            drawn.append(" ")
        else:
            share = min(1.0, max(0.0, value / top)) if top > 0 else 0.0
            drawn.append(levels[min(len(levels) - 1, int(share * len(levels)))])
    return "".join(drawn)


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """Such as 3 d 4 h, the two largest parts."""
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((at for at, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])


def _number(value: float | None, form: str) -> Text:
    return Text("-", style="dim") if value is None else Text(form.format(value))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:4.0%}"


def _heat(celsius: float) -> str:
    return "bold red" if celsius >= 90 else "yellow" if celsius >= 80 else ""


def _pressures(machine: pb.MachineInfo) -> Iterator[tuple[str, pb.Pressure]]:
    for name in ("cpu", "memory", "io"):
        if machine.HasField(f"{name}_pressure"):
            yield name, getattr(machine, f"{name}_pressure")


def _gpu(gpu: pb.Gpu) -> str:
    parts = [gpu.name]
    if gpu.HasField("busy"):
        parts.append(f"{gpu.busy:.0%}")
    if gpu.HasField("memory_used_bytes"):
        parts.append(f"{size(gpu.memory_used_bytes)} used")
    if gpu.HasField("celsius"):
        parts.append(f"{gpu.celsius:.0f} C")
    if gpu.HasField("watts"):
        parts.append(f"{gpu.watts:.0f} W")
    return ", ".join(parts)


def _hung(engine: pb.EngineInfo) -> str:
    """How long a step has taken that should long have ended."""
    if not engine.running or engine.last_step_age_ms < 10_000:
        return ""
    return f"{engine.last_step_age_ms / 1000:.0f} s ago, with {engine.running} running"
