"""`edgeqwen-compile sign` and `edgeqwen-compile keygen`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runtime.errors import SigningError
from runtime.package import open_variants

from ..progress import Reporter

if TYPE_CHECKING:
    from ..publishing.keys import Curve
    from ..publishing.sign import Signing

_PASSPHRASE = "EDGEQWEN_PASSPHRASE"

_passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path),
    help=f"Its first line is the key's passphrase. Default: {_PASSPHRASE}, or it is asked for on a terminal.",
)


@click.command(
    epilog="""\b
Examples:
  edgeqwen-compile keygen fleet-2026
  edgeqwen-compile sign dist/qwen3-0.6b-int4.ortpackage --key fleet-2026.key
  edgeqwen-compile sign dist/qwen3-0.6b-int4.ortpackage --key release.key --certificate release.pem
  edgeqwen-compile sign dist/qwen3-0.6b-int4.ortpackage --sigstore

\b
Keys of `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` are as good. A certificate must be for signing
code (extendedKeyUsage=codeSigning); those that lead to its authority come behind it in the file.
What this signer has signed already stays as it is, but with --sigstore, which signs anew.
Exit status: 0 signed, 1 error, 2 usage, 4 package damaged."""
)
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--key", "key_file", type=click.Path(path_type=Path), help="Private elliptic key, in PEM.")
@click.option("--certificate", type=click.Path(path_type=Path), help="Certificate of the key, in PEM.")
@click.option("--sigstore", is_flag=True, help="With an identity of yours, or of the CI job, at Sigstore.")
@click.option("--identity-token", type=click.Path(path_type=Path), help="File with a token for --sigstore.")
@click.option("--trust-config", type=click.Path(path_type=Path), help="JSON of your own Sigstore, for --sigstore.")
@_passphrase_option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def sign(
    package: Path,
    key_file: Path | None,
    certificate: Path | None,
    sigstore: bool,
    identity_token: Path | None,
    trust_config: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Sign each variant of PACKAGE, so that devices know that it is yours."""
    if sigstore == (key_file is not None):
        raise click.UsageError("say what to sign with: --key FILE, or --sigstore")
    if (certificate or passphrase_file) and key_file is None:
        raise click.UsageError("--certificate and --passphrase-file belong to --key")
    if (identity_token or trust_config) and not sigstore:
        raise click.UsageError("--identity-token and --trust-config belong to --sigstore")

    from ..publishing.sign import SigstoreSigning, sign_package

    if key_file:
        signing = _key_signing(key_file, certificate, passphrase_file)
    else:
        signing = SigstoreSigning(_text(identity_token) if identity_token else None, trust_config)
    done, total = 0, sum(each.files_bytes for each in open_variants(package))
    with Reporter().stage("sign") as stage:

        def read(count: int) -> None:
            nonlocal done
            done += count
            stage.update(done >> 20, total >> 20)

        variants = sign_package(package, signing, read)
    if as_json:
        changed = any(variant.changed for variant in variants)
        said = {"package": str(package), "signer": signing.name, "changed": changed}
        click.echo(json.dumps(said | {"variants": [asdict(variant) for variant in variants]}))
        return
    for variant in variants:
        click.echo(f"{variant.variant}: {'signed' if variant.changed else 'was signed before'} with {signing.name}")


def _key_signing(key_file: Path, certificate: Path | None, passphrase_file: Path | None) -> Signing:
    from ..publishing.keys import read_certificates, read_key
    from ..publishing.sign import KeySigning

    key = read_key(key_file, lambda: _passphrase(passphrase_file, f"Passphrase of {key_file}"))
    return KeySigning(key, read_certificates(certificate, key) if certificate else ())


@click.command(
    epilog="""\b
Examples:
  edgeqwen-compile keygen fleet-2026
  edgeqwen-compile keygen keys/fleet-2026 --curve p384 --passphrase-file passphrase.txt

\b
Writes NAME.key, the private key, for `edgeqwen-compile sign`, mode 0600; and NAME.pem, the public one, for
/etc/edgeqwen/trust.d of every device. Nothing is overwritten.
Exit status: 0 done, 1 error, 2 usage."""
)
@click.argument("name", type=click.Path(path_type=Path))
@click.option("--curve", type=click.Choice(["p256", "p384", "p521"]), default="p256", show_default=True)
@_passphrase_option
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def keygen(name: Path, curve: Curve, passphrase_file: Path | None, as_json: bool) -> None:
    """Make a key pair NAME to sign packages with."""
    from ..publishing.keys import make_key_pair

    passphrase = _passphrase(passphrase_file, "Passphrase (empty for none)", new=True)
    made = make_key_pair(name, curve, passphrase)
    if as_json:
        said = {"private": str(made.private), "public": str(made.public), "digest": f"sha256:{made.digest}"}
        click.echo(json.dumps(said | {"encrypted": passphrase is not None}))
        return
    click.echo(f"{made.private}: keep it secret{'' if passphrase else ', it has no passphrase'}")
    click.echo(f"{made.public}: for /etc/edgeqwen/trust.d of every device (sha256:{made.digest[:12]}...)")


def _passphrase(file: Path | None, prompt: str, *, new: bool = False) -> bytes | None:
    """From the file, the environment or the terminal, whichever there is. None for an empty one."""
    if file:
        text = _text(file)
    elif _PASSPHRASE in os.environ:
        text = os.environ[_PASSPHRASE]
    elif sys.stdin.isatty():
        text = click.prompt(prompt, hide_input=True, default="", show_default=False, confirmation_prompt=new, err=True)
    else:
        text = ""
    return text.encode() or None


def _text(path: Path) -> str:
    """The first line."""
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise SigningError(f"{path} cannot be read: {getattr(error, 'strerror', 'it is no text')}") from error
