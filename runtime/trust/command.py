"""`edgeqwen verify`, an entry point `edgeqwen.commands` of pyproject.toml.

Loaded also where only the client is installed: what the runtime needs is imported when the command runs.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..one_line import one_line_errors
from ..progress import showing_bytes
from .folder import TRUST_FOLDER

if TYPE_CHECKING:
    from ..package import Package
    from .roots import Signer
    from .trust import Trust

trust_option = click.option(
    "--trust",
    "trust_folder",
    type=click.Path(path_type=Path),
    envvar="EDGEQWEN_TRUST",
    default=TRUST_FOLDER,
    show_default=True,
    help="Folder of trust roots, or one of them; also EDGEQWEN_TRUST.",
)
"""For every command that asks who signed a package."""


@click.command(
    epilog="""\b
Examples:
  edgeqwen verify qwen3-0.6b-int4.ortpackage
  edgeqwen verify qwen3-0.6b-int4.ortpackage --trust fleet.pem
  edgeqwen verify /media/usb/qwen3-0.6b-int4.ortpackage --variant raspberry-pi-5
  edgeqwen verify qwen3-0.6b-int4.ortpackage --trust ./trust.d --json | jq -r '.variants[].signed_by.name'

\b
In the folder of trust roots, *.pem are public keys, *.crt certificates of authorities, and *.yaml identities of
Sigstore. One that vouches for a variant is enough; nobody but root and you may be able to write them.
Exit status: 0 signed by somebody trusted, 1 error, 2 usage, 3 trust roots cannot be used, 4 package damaged,
5 not trusted."""
)
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--variant", help="Only this one. Default: all that the package has.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def verify(package: Path, variant: str | None, trust_folder: Path, as_json: bool) -> None:
    """Say whether PACKAGE is whole, and signed by somebody whom this machine trusts."""
    try:
        from ..package import Package, open_variants
        from .trust import Trust
    except ImportError as error:
        message = f"verify reads packages, and {error.name} is not installed: pip install 'edgeqwen[runtime]'"
        raise click.ClickException(message) from error
    with one_line_errors():
        trust = Trust.read(trust_folder)
        opened = [Package.open(package, variant, verify=False)] if variant else open_variants(package)
        signers = {each.variant_dir.name: _verified(trust, each) for each in opened}
    (_print_json if as_json else _print)(opened[0], signers)


def _verified(trust: Trust, package: Package) -> Signer:
    done = 0
    with showing_bytes(f"verifying {package.variant_dir.name}") as show:

        def read(count: int) -> None:
            nonlocal done
            done += count
            show(done, package.files_bytes)

        return trust.verify(package, read)


def _print_json(package: Package, signers: dict[str, Signer]) -> None:
    build = package.build
    variants = [{"variant": variant, "signed_by": asdict(signer)} for variant, signer in signers.items()]
    said = {"package": str(package.root), "name": build.name, "version": build.version, "variants": variants}
    click.echo(json.dumps(said))


def _print(package: Package, signers: dict[str, Signer]) -> None:
    click.echo(f"{package.build.name} {package.build.version}")
    for variant, signer in signers.items():
        click.echo(f"{variant}: whole, signed by {signer}")
