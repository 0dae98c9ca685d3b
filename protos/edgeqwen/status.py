"""`edgeqwen status` and `edgeqwen models`: what the daemon has and does, for people and for scripts."""

from __future__ import annotations

import json

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table

from .client import Client, Connection
from .v1 import models_pb2, telemetry_pb2
from .watch_view import lowered, told_errors

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")


def _fields(message: Message) -> dict[str, object]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _print(table: Table) -> None:
    Console(markup=False, emoji=False).print(table)  # names are shown as they are, brackets included


@click.command()
@JSON_OPTION
@click.pass_obj
def status(target: Connection, as_json: bool) -> None:
    """Health, models, load and memory of the daemon."""
    with Client(target) as client:
        health, snapshot = client.health(), client.snapshot()
    if as_json:
        click.echo(json.dumps({"health": health, **_fields(snapshot)}))
        return
    process, machine = snapshot.process, snapshot.machine
    table = Table(show_header=False, box=None)
    table.add_row("health", health + (", draining" if any(each.engine.draining for each in snapshot.models) else ""))
    for warning in snapshot.warnings:
        table.add_row("warning", warning)
    table.add_row("up", f"{snapshot.uptime_s:.0f} s")
    if snapshot.HasField("served"):
        its, trial = snapshot.served, ", on trial" if snapshot.served.trial else ""
        table.add_row("package", f"{its.model} {its.version}, slot {its.slot}{trial}")
    for each in snapshot.models:
        _add_model(table, each.model, each.engine)
    for client_info in snapshot.clients:
        table.add_row("client", _client_row(client_info))
    if errors := told_errors(snapshot):
        table.add_row("errors", errors)
    weights = sum(each.model.weights_bytes for each in snapshot.models)
    table.add_row("memory", f"{process.rss_bytes / 1e6:.0f} MB, of it weights {weights / 1e6:.0f} MB")
    table.add_row("machine", f"{machine.cpu_busy:.0%} busy, {machine.memory_available_bytes / 1e6:.0f} MB free")
    _add_board(table, snapshot)
    for reading in machine.temperatures:
        table.add_row(reading.sensor, f"{reading.celsius:.1f} C")
    _print(table)


def _add_board(table: Table, snapshot: telemetry_pb2.Snapshot) -> None:
    machine, energy = snapshot.machine, snapshot.energy
    for disk in machine.disks:
        table.add_row("disk", f"{disk.free_bytes / 1e9:.1f} of {disk.total_bytes / 1e9:.1f} GB free ({disk.folder})")
    if machine.HasField("throttling"):
        table.add_row("throttled", ", ".join(machine.throttling.reasons) or "no")
    if energy.HasField("watts"):
        tokens = f", {energy.joules_per_token:.2f} J a token" if energy.HasField("joules_per_token") else ""
        table.add_row("power", f"{energy.watts:.1f} W ({', '.join(energy.covers)}){tokens}")
    for gpu in machine.gpus:
        table.add_row("GPU", gpu.name + (f", {gpu.busy:.0%} busy" if gpu.HasField("busy") else ""))


def _add_model(table: Table, model: telemetry_pb2.ModelInfo, engine: telemetry_pb2.EngineInfo) -> None:
    runs = model.provider
    if model.provider_requested != runs:
        runs += f" instead of {model.provider_requested}, as configured"
    table.add_row("model", f"{model.name} ({model.variant}, {model.precision}, {runs})")
    if model.prefill_threads:
        counts = dict.fromkeys([model.prefill_threads, model.decode_threads])
        threads = " for prefill, ".join(map(str, counts)) + (" for decode" if len(counts) > 1 else "")
        table.add_row("threads", f"{threads}, by the {model.threads_from}; slots by the {model.slots_from}")
    if engine.throttle.level:
        table.add_row("lowered", lowered(engine.throttle))
    for preset in model.presets:
        values = f" ({', '.join(f'{name}={value}' for name, value in sorted(preset.values.items()))})"
        table.add_row("preset", f"{preset.name}: {preset.description}{values if preset.values else ''}")
    if model.adapters:
        table.add_row("adapters", ", ".join(model.adapters))
    table.add_row("running", f"{engine.running} of {engine.slots}, {engine.queue_depth} of {engine.queue_limit} wait")
    table.add_row("speed", f"{engine.completion_tokens_per_second:.1f} tokens/s in the last {engine.window_s:.0f} s")
    table.add_row(
        "prompts", f"{engine.prompt_tokens_total} tokens computed, {engine.cached_prompt_tokens_total} reused"
    )
    table.add_row("guesses", f"{engine.right_guesses_total} of {engine.guessed_tokens_total} tokens right")
    if engine.HasField("time_to_first_token_p50_ms"):
        first, last = engine.time_to_first_token_p50_ms, engine.time_to_first_token_p95_ms
        table.add_row("first token", f"{first:.0f} ms at the median, {last:.0f} ms at 95 %")
    held = (engine.kv_used_tokens + engine.kv_warm_tokens) * engine.kv_bytes_per_token
    shares = f"{engine.kv_used_tokens} in use + {engine.kv_warm_tokens} warm of {engine.kv_budget_tokens} tokens"
    table.add_row("KV cache", f"{shares}, {held / 1e6:.0f} MB")


_LIMITS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrent_requests": "at once",
    "prompt_tokens": "tokens a prompt",
    "output_tokens": "tokens an answer",
}


def _client_row(its: telemetry_pb2.ClientInfo) -> str:
    tokens = f"{its.prompt_tokens_total} + {its.completion_tokens_total} tokens"
    refused = f", {its.refused_total} refused" if its.refused_total else ""
    limits = [f"{getattr(its.limits, name)} {unit}" for name, unit in _LIMITS.items() if its.limits.HasField(name)]
    at_most = f"; at most {', '.join(limits)}" if limits else ""
    done = f"{its.requests_total} requests, {tokens}{refused}"
    return f"{its.name}: {its.running} running, {its.waiting} wait; {done}{at_most}"


@click.group(invoke_without_command=True)
@JSON_OPTION
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:
    """The models that are loaded, and the packages that could be; load and unload them while the daemon runs."""
    if ctx.invoked_subcommand is not None:
        return
    with Client(ctx.obj) as client:
        listed = client.models()
    if as_json:
        click.echo(json.dumps([_fields(each) | {"state": _state(each.state)} for each in listed]))
        return
    table = Table(box=None, header_style="")
    for name in ("MODEL", "STATE", "PRECISION", "WEIGHTS", "CONTEXT"):
        table.add_column(name)
    for each in listed:
        model = each.model if each.HasField("model") else None
        facts = (model.precision, f"{model.weights_bytes / 1e6:.0f} MB", str(model.context_tokens)) if model else ()
        table.add_row(each.name, _state(each.state), *facts)
    _print(table)


@models.command()
@click.argument("package")
@click.option("--variant", default="", help="Its variant; needed if it has several.")
@click.option("--replace", default="", metavar="MODEL", help="A loaded model that gives way to it.")
@click.option("--default", is_flag=True, help="Make it the model of requests that name none.")
@JSON_OPTION
@click.pass_obj
def load(target: Connection, package: str, variant: str, replace: str, default: bool, as_json: bool) -> None:
    """Load PACKAGE of the daemon's folder; a model of the same name gives way to it once it answers."""
    with Client(target) as client:
        for response in client.load_model(package, variant=variant, replace=replace, default=default):
            if as_json:
                fields = _fields(response.model) if response.HasField("model") else None
                click.echo(json.dumps({"state": _state(response.state), "model": fields}))
            elif response.HasField("model"):
                click.echo(f"{response.model.name} answers")
            else:
                click.echo(f"{package}: {_DOING[_state(response.state)]}", err=True)


@models.command()
@click.argument("model")
@click.pass_obj
def unload(target: Connection, model: str) -> None:
    """Take MODEL out once its requests have ended."""
    with Client(target) as client:
        client.unload_model(model)


_DOING = {
    "verifying": "its files are compared with their digests",
    "waiting": "there is no room for both: the model that it replaces ends its requests",
    "loading": "it is loaded",
    "draining": "it answers; the model that it replaces ends its requests",
}


def _state(state: models_pb2.ModelState) -> str:
    return models_pb2.ModelState.Name(state).removeprefix("MODEL_STATE_").lower()
