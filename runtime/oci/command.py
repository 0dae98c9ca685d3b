"""`edgeqwen pull`, an entry point `edgeqwen.commands` of pyproject.toml.

Loaded also where only the client is installed: what the runtime needs is imported when the command runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..one_line import note, one_line_errors
from ..progress import showing_bytes
from .options import pulling_options, settings_of

if TYPE_CHECKING:
    from .pulling import Pulled


@click.command(
    epilog="""\b
Examples:
  edgeqwen pull oci://registry.example/edge/qwen:1.2.0 -o packages
  edgeqwen pull oci://registry.example/edge/qwen:1.2.0 --mirror cache.site.example:5000 --limit-rate 500K -o packages
  edgeqwen pull oci-layout:/media/usb:qwen-1.2.0 -o packages
  edgeqwen pull oci://localhost:5000/qwen@sha256:... --variant raspberry-pi-5 -o packages

\b
Only the files of one variant come. What was cut goes on when the same is called again.
No signature is looked at: `edgeqwen verify` does that, and `edgeqwen install` before it fetches anything.
Exit status: 0 done, or there already, 1 error, 2 usage, 3 settings, 4 no such package, damaged, or not for this device,
69 no registry answers, 75 try again later: cut, or another is at it, 77 the registry lets us not."""
)
@click.argument("reference")
@click.option("--variant", help="Default: the one whose profile fits this device.")
@click.option("--profile", help="Instead of the profiles that `edgeqwen detect` finds.")
@click.option(
    "-o", "--output", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where it goes."
)
@pulling_options
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def pull(reference: str, variant: str | None, profile: str | None, folder: Path, as_json: bool, **flags: Any) -> None:
    """Fetch one variant of the package REFERENCE into a folder NAME.ortpackage."""
    try:
        from .choosing import choose_for_this_device
        from .opening import open_source
        from .pulling import pull_into
        from .reference import parse_reference
    except ImportError as error:
        message = f"pull needs {error.name}, which is not installed: pip install 'edgeqwen[runtime,oci]'"
        raise click.ClickException(message) from error
    with one_line_errors():
        settings = settings_of(flags)
        source = open_source(parse_reference(reference), settings, note)
        offer = choose_for_this_device(source.offers(), variant, profile)
        with showing_bytes(f"pulling {offer}") as progress:
            pulled = pull_into(folder, source, offer, progress)
    _show(pulled, as_json=as_json)


def _show(pulled: Pulled, *, as_json: bool) -> None:
    offer = pulled.offer
    if as_json:
        about = {key: getattr(offer, key) for key in ("name", "version", "variant", "profile", "arch", "digest")}
        sizes = {"fetched_bytes": pulled.fetched_bytes, "kept_bytes": pulled.kept_bytes}
        click.echo(json.dumps({"package": str(pulled.path), "changed": pulled.changed, **about, **sizes}))
        return
    click.echo(str(pulled.path))
    if not pulled.changed:
        note(f"{offer} is there already")
