"""`edgeqwen token`, an entry point `edgeqwen.commands` of pyproject.toml."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from .access.tokens import NAME, digest_of, make_token


def _named(context: click.Context, parameter: click.Parameter, name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise click.BadParameter(
            "has letters, digits and . _ @ - only, 64 at most, and begins with one of the first two"
        )
    return name


@click.command(
    epilog="""\b
Examples:
  edgeqwen token gateway --out gateway.token
  edgeqwen token gateway --json

\b
The client shows the token (--token-file, EDGEQWEN_TOKEN_FILE); the line goes below `tokens:` in the daemon's
configuration, and says nothing that helps to call it."""
)
@click.argument("name", callback=_named)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the token to this new file, mode 0600."
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def token(name: str, out: Path | None, as_json: bool) -> None:
    """Make a bearer token for the client NAME. It is shown once and kept nowhere."""
    made = make_token()
    if out is not None:
        _write(out, made)
    digest = digest_of(made)
    if as_json:
        click.echo(json.dumps({"name": name, "digest": digest} | ({} if out is not None else {"token": made})))
        return
    if out is None:
        click.echo(made)
    click.echo(f"# for the configuration:\ntokens:\n  {name}: {digest}", err=out is None)


def _write(path: Path, content: str) -> None:
    """Never over what is there: a token that is lost cannot be had again."""
    try:
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(f"{content}\n", encoding="ascii")
    except FileExistsError as error:
        raise click.ClickException(f"{path} is there already: remove it, or choose another file") from error
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
