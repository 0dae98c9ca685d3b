"""`edgeqwen-compile push` and `export`: a package to where devices find it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from runtime.oci.options import reaching_options, settings_of
from runtime.oci.reference import TAG, RegistryReference, parse_reference

from ..progress import Reporter

_SIZE = re.compile(r"([0-9]{1,6})(M|G)")


def _tags(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    if wrong := [tag for tag in given if not re.fullmatch(TAG, tag)]:
        raise click.BadParameter(f"{wrong[0]!r} is no tag: it has letters, digits and . _ - only, 128 at most")
    return given


def _tag(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    return _tags(context, parameter, (given,))[0] if given is not None else None


def _chunk(context: click.Context, parameter: click.Parameter, given: str | None) -> int | None:
    found = _SIZE.fullmatch(given or "1M")
    if found is None or int(found[1]) == 0:
        raise click.BadParameter("looks like 50M or 1G")
    return int(found[1]) << (20 if found[2] == "M" else 30) if given is not None else None


@click.command(
    epilog="""\b
Examples:
  edgeqwen-compile push dist/qwen2.5-0.5b-instruct-int4.ortpackage oci://registry.example/edge/qwen
  edgeqwen-compile push dist/qwen.ortpackage oci://registry.example/edge/qwen:1.2.0 --tag latest
  edgeqwen-compile push dist/qwen.ortpackage oci://localhost:5000/qwen --json | jq -r .reference

\b
Without a tag the package's version is the tag. What the registry has is not sent again; the tag comes last, so nobody
ever fetches half a package. Doing it twice changes nothing.
User name and password are those of `docker login`, or --username and --password-file.
Exit status: 0 done, 1 error, 2 usage, 3 settings, 4 package, 69 the registry does not answer, 77 it lets us not."""
)
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("reference")
@click.option("--tag", "tags", multiple=True, callback=_tags, help="A further tag; may be given again.")
@click.option(
    "--chunk-size",
    "chunk_bytes",
    callback=_chunk,
    help="For a registry that takes no larger request, such as 50M. Default: a file a request.",
)
@reaching_options
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def push(
    package: Path, reference: str, tags: tuple[str, ...], chunk_bytes: int | None, as_json: bool, **flags: Any
) -> None:
    """Push PACKAGE with all its variants to the repository REFERENCE of a registry."""
    place = parse_reference(reference)
    if not isinstance(place, RegistryReference) or place.digest is not None:
        raise click.UsageError("a package is pushed to oci://HOST/REPOSITORY[:TAG], whose digest it decides itself")

    from runtime.oci.opening import open_transport

    from ..publishing.publication import read_publication
    from ..publishing.push import push as push_to
    from ..publishing.uploads import Repository

    settings, reporter = settings_of(flags), Reporter()
    transport = open_transport(place, settings)
    found = read_publication(package, reporter)
    repository = Repository(transport, place.repository, settings.patience, chunk_bytes)
    done = push_to(found, repository, (*([place.tag] if place.tag else []), *tags), reporter)
    pinned = f"oci://{place.host}/{place.repository}:{done.tags[0]}@{found.digest}"
    if as_json:
        about = {"reference": pinned, "digest": found.digest, "tags": done.tags, "changed": done.changed}
        sizes = {"sent_bytes": done.sent_bytes, "present_bytes": done.present_bytes}
        click.echo(json.dumps({**about, "name": found.name, "version": found.version, **sizes}))
        return
    click.echo(pinned)
    reporter.note(_summary(done.changed, "sent", done.sent_bytes, "there already", done.present_bytes))


@click.command(
    epilog="""\b
Examples:
  edgeqwen-compile export dist/qwen2.5-0.5b-instruct-int4.ortpackage --oci-layout /media/usb/packages
  edgeqwen-compile export dist/qwen.ortpackage --oci-layout ./layout --tag qwen-stable
  skopeo copy --all --preserve-digests oci:./layout:qwen-stable docker://registry.example/edge/qwen:stable

\b
On the device: edgeqwen install oci-layout:/media/usb/packages:TAG
Packages of several names and versions may be in one layout; what they share is there once.
Exit status: 0 done, 1 error, 2 usage, 4 package."""
)
@click.argument("package", type=click.Path(path_type=Path))
@click.option(
    "--oci-layout",
    "layout",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder: an OCI image layout, or empty, or new.",
)
@click.option("--tag", callback=_tag, help="What the package is called there. Default: NAME-VERSION")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def export(package: Path, layout: Path, tag: str | None, as_json: bool) -> None:
    """Write PACKAGE with all its variants into an OCI image layout, such as on a USB stick."""
    from ..publishing.export import export as export_to
    from ..publishing.publication import read_publication

    reporter = Reporter()
    found = read_publication(package, reporter)
    done = export_to(found, layout, tag, reporter)
    reference = f"oci-layout:{layout}:{done.tag}"
    if as_json:
        about = {"reference": reference, "digest": found.digest, "tag": done.tag, "changed": done.changed}
        sizes = {"written_bytes": done.written_bytes, "present_bytes": done.present_bytes}
        click.echo(json.dumps({**about, "name": found.name, "version": found.version, **sizes}))
        return
    click.echo(reference)
    reporter.note(_summary(done.changed, "written", done.written_bytes, "there already", done.present_bytes))


def _summary(changed: bool, moved: str, moved_bytes: int, kept: str, kept_bytes: int) -> str:
    if not changed:
        return "nothing to do: it is there already"
    return f"{moved_bytes / 1e6:.1f} MB {moved}, {kept_bytes / 1e6:.1f} MB {kept}"
