"""`edgeqwend`: loads a package and serves it until told to leave."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from .configuration.config import DEFAULT_LISTEN, DEFAULT_STATE_DIR, ENVIRONMENT_PREFIX, Config, load_config
from .errors import EdgeQwenError
from .lifecycle.running import serve


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  edgeqwend --package qwen.ortpackage
  edgeqwend --package qwen.ortpackage --listen unix:/tmp/edgeqwend.sock --log-format console
  edgeqwend --store /var/lib/edgeqwen/store                # what `edgeqwen activate` made active
  EDGEQWEN_QUEUE_LIMIT=16 edgeqwend --config /etc/edgeqwen/edgeqwend.yaml

\b
A setting is taken from its flag, else from EDGEQWEN_<NAME>, else from the --config file, else it has its default.
`tls`, `tokens` and `clients` are in the file only.
The first SIGTERM or SIGINT stops accepting requests and lets running ones end; a second leaves at once.
SIGHUP reads the configuration again; the log says what of it needs a restart.
SIGUSR1 saves power, SIGUSR2 ends that.
Exit status: 0 left as told, 1 error, 2 usage, 3 configuration, 4 package, 5 model cannot run, 6 address in use,
75 another daemon has the store.""",
)
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file of these settings.")
@click.option("--package", type=click.Path(path_type=Path), help="The package to serve.")
@click.option("--variant", help="Its variant; needed if it has several.")
@click.option("--store", type=click.Path(path_type=Path), help="Serve the active package of this store instead.")
@click.option(
    "--more-packages",
    type=click.Path(path_type=Path),
    multiple=True,
    callback=lambda _, __, paths: list(paths) or None,
    help="A package to serve beside it; may be given again.",
)
@click.option("--packages-dir", type=click.Path(path_type=Path), help="Where `edgeqwen models load` finds packages.")
@click.option("--adapters-dir", type=click.Path(path_type=Path), help="More adapters: a folder of *.onnx_adapter.")
@click.option(
    "--listen",
    multiple=True,
    callback=lambda _, __, given: list(given) or None,
    help=f"unix:PATH or HOST:PORT; may be given again. Default: {DEFAULT_LISTEN}",
)
@click.option("--socket-group", help="Whose members may connect to unix sockets. Default: edgeqwen")
@click.option("--connections", type=int, help="At once, to unix sockets and to TCP ports. Default: 256")
@click.option("--connections-per-user", type=int, help="Of them to unix sockets from one user. Default: 64")
@click.option("--insecure/--no-insecure", default=None, help="Allow TCP without TLS off loopback. Default: no")
@click.option("--http-listen", help="The OpenAI API over HTTP: unix:PATH or HOST:PORT. Default: nowhere")
@click.option(
    "--metrics-listen", help="Where Prometheus finds metrics: unix:PATH, or HOST:PORT on loopback. Default: off"
)
@click.option("--queue-limit", type=int, help="Requests that may wait; more are refused. Default: 64")
@click.option("--drain-timeout-s", type=float, help="How long requests may go on after SIGTERM. Default: 30")
@click.option("--stall-timeout-s", type=float, help="How long a step may take before it counts as hung. Default: 30")
@click.option("--low-power-battery-percent", type=float, help="Save power on a battery with less. Default: never")
@click.option("--verify/--no-verify", default=None, help="Check every file's digest first. Default: verify")
@click.option("--threads", type=int, help="Threads of the model. Default: measured here, else the profile's")
@click.option("--slots", type=int, help="Requests that decode together. Default: likewise")
@click.option("--context-tokens", type=int, help="Prompt and answer together. Default: the profile's")
@click.option("--device", help="Of OpenVINO: CPU, GPU or NPU. Default: the profile's")
@click.option("--share-prefix", help="Start prompts from earlier ones of: client, all or off. Default: client")
@click.option("--speculate/--no-speculate", default=None, help="Guess tokens from the text. Default: speculate")
@click.option("--deterministic/--no-deterministic", default=None, help="For requests that do not say. Default: no")
@click.option("--shrink-kv/--no-shrink-kv", default=None, help="While memory is short. Default: shrink-kv")
@click.option("--simulate/--no-simulate", default=None, help="Verify an NPU's package on x86-64. Default: no")
@click.option("--state-dir", type=click.Path(path_type=Path), help=f"What was measured. Default: {DEFAULT_STATE_DIR}")
@click.option("--max-message-bytes", type=int, help="The largest request accepted. Default: 4194304")
@click.option("--log-format", help="auto, json or console. Default: auto")
@click.option("--log-level", help="debug, info, warning or error. Default: info")
@click.option("--check-config", "check_only", is_flag=True, help="Say what is wrong or what would run, and leave.")
@click.option("--json", "as_json", is_flag=True, help="Of --check-config: as one JSON object.")
@click.version_option(package_name="edgeqwen")
def main(config_file: Path | None, check_only: bool, as_json: bool, **flags: object) -> None:
    """Serve a package over gRPC."""
    _fill_standard_streams()
    read = partial(load_config, config_file or _path_from_environment(), os.environ, flags)
    try:
        if check_only:
            sys.exit(_check(read, as_json=as_json))
        asyncio.run(serve(read))
    except EdgeQwenError as error:
        click.echo(f"edgeqwend: {error}", err=True)
        sys.exit(error.exit_code)


def _fill_standard_streams() -> None:
    """Those that were closed go nowhere. Else the next file or socket would get their number, and what a library
    writes to stderr would go there."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _path_from_environment() -> Path | None:
    value = os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    return Path(value) if value else None


def _check(read: Callable[[], Config], *, as_json: bool) -> int:
    """Prints what `--check-config` finds; returns the exit status."""
    from .lifecycle.check import Checked, check
    from .lifecycle.listening import check_certificates, check_http
    from .lifecycle.observability import check_observability

    try:
        checked = check(read(), extras=(check_certificates, check_http, check_observability))
    except EdgeQwenError as error:
        checked = Checked((error,), (), {})
    if as_json:
        click.echo(json.dumps(checked.as_json()))
        return checked.exit_code
    for name, value in checked.runs.items():
        click.echo(f"{name:16} {value}")
    for warning in checked.warnings:
        click.echo(f"edgeqwend: warning: {warning}", err=True)
    for line in checked.lines:
        click.echo(f"edgeqwend: {line}", err=True)
    return checked.exit_code


if __name__ == "__main__":
    main()
