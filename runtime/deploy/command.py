"""`edgeqwen service`, an entry point `edgeqwen.commands` of pyproject.toml.

Loaded also where only the client is installed: what the runtime needs is imported when a command runs.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from ..errors import DeployError
from ..one_line import note, one_line_errors
from .apply import Change, apply
from .manager import Manager, require_root
from .plan import (
    CONFIG_FOLDER,
    NO_PACKAGE,
    STATE_FOLDER,
    STORE_FOLDER,
    UNIT,
    Entry,
    placed_paths,
    plan,
)
from .status import PROPERTIES, Status, read_status
from .target import Target

_HIDDEN = ("/home/", "/root/", "/run/user/")  # from the service, by ProtectHome=yes

_root = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    default=Path("/"),
    help="Of an image's file system; nothing is started then. Default: /",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Show every change, and make none.")
_json = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")


@click.group(
    epilog="""\b
Examples:
  sudo edgeqwen service install --package /var/lib/edgeqwen/qwen.ortpackage --now
  sudo edgeqwen service install --store --now          # whatever `edgeqwen activate` makes active
  edgeqwen service install --dry-run
  sudo edgeqwen service install --root /mnt/image --bin-dir /opt/edgeqwen/bin
  edgeqwen service status
  edgeqwen service logs --follow
  sudo edgeqwen service uninstall

\b
Exit status: 0 done, 1 error, 2 usage; of `status` 3: it is not active."""
)
def service() -> None:
    """Run edgeqwend as a service of systemd."""


@service.command()
@click.option("--package", help="For a configuration that is not there yet: where the board has its package.")
@click.option("--variant", help="Of that package; needed if it has several.")
@click.option(
    "--store",
    is_flag=False,
    flag_value=STORE_FOLDER,
    help=f"Instead of a package: where the board has its store. Without a folder {STORE_FOLDER}",
)
@click.option("--bin-dir", type=click.Path(path_type=Path), help="Where edgeqwend is. Default: beside this program.")
@click.option("--enable/--no-enable", default=True, help="Start it with the machine. Default: enable")
@click.option("--now", is_flag=True, help="Start it now, or again.")
@_root
@_dry_run
@_json
def install(
    package: str | None,
    variant: str | None,
    store: str | None,
    bin_dir: Path | None,
    enable: bool,
    now: bool,
    root: Path,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Place the units, the user, the folders and the commands; again after a change of package or settings."""
    if store is not None and (package is not None or variant is not None):
        raise click.UsageError("--store serves what is active in the store: leave --package and --variant out")
    try:
        from .expectation import expect
    except ImportError as error:
        message = f"this board is to run the daemon, and {error.name} is not installed: pip install 'edgeqwen[runtime]'"
        raise click.ClickException(message) from error
    with one_line_errors():
        target = Target(root)
        manager = Manager(target)
        if not dry_run:
            require_root()
            manager.require_running()
        if now and not target.is_this_machine:
            raise DeployError("an image cannot be started: leave --now out")
        bin_folder = _bin_folder(target, bin_dir)
        named = {"package": package, "variant": variant, "store": store}
        settings = {name: value for name, value in named.items() if value is not None}
        expectation = expect(target, settings)
        entries = plan(expectation.drop_ins, bin_folder, _config(settings))
        changes = apply(entries, target, dry_run=dry_run)
        if not dry_run:
            manager.prepare()
            if enable:
                manager.enable()
            if now:
                manager.start()
        _report(changes, expectation.unknown, dry_run=dry_run, as_json=as_json)


def _bin_folder(target: Target, named: Path | None) -> str:
    """As the target calls it. Raises DeployError if edgeqwend is not there."""
    folder = named or Path(sysconfig.get_path("scripts"))
    if named is not None and not target.is_this_machine and not folder.is_relative_to(target.root):
        folder = target.path(folder)
    if not (folder / "edgeqwend").exists():
        raise DeployError(f"there is no edgeqwend in {folder}: name its folder with --bin-dir")
    name = target.name_of(folder)
    needed = [name, *([str((folder / "python").resolve())] if target.is_this_machine else [])]
    if hidden := next((path for path in needed if path.startswith(_HIDDEN)), None):
        raise DeployError(f"the service cannot see {hidden} (ProtectHome): install edgeqwen elsewhere, such as in /opt")
    return name


def _config(settings: Mapping[str, str]) -> str:
    if not settings:
        return NO_PACKAGE
    lines = NO_PACKAGE.splitlines(keepends=True)[:-1]
    return "".join([*lines, *(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())])


def _report(changes: Sequence[Change], warning: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        told = [{"path": it.path, "action": it.action, "diff": it.diff} for it in changes]
        click.echo(json.dumps({"dry_run": dry_run, "changes": told, "warning": warning}))
        return
    for change in changes:
        click.echo(f"{change.action:8} {change.path}")
        if dry_run and change.diff:
            click.echo(change.diff.rstrip("\n"))
    if warning:
        note(warning)


@service.command()
@click.option("--purge", is_flag=True, help=f"Remove {CONFIG_FOLDER} and {STATE_FOLDER} too, packages included.")
@_root
@_dry_run
@_json
def uninstall(purge: bool, root: Path, dry_run: bool, as_json: bool) -> None:
    """Stop the service and remove what `install` placed; configuration, packages and the user stay."""
    with one_line_errors():
        target = Target(root)
        manager = Manager(target)
        if not dry_run:
            require_root()
            manager.require_running()
            if target.path(f"/etc/systemd/system/{UNIT}").is_file():
                manager.disable()
        links = [path for path in placed_paths() if not _is_foreign(target.path(path))]
        changes = apply([Entry(path) for path in links], target, dry_run=dry_run)
        if purge:
            changes += _purge(target, dry_run=dry_run)
        if not dry_run:
            manager.forget()
        _report(changes, "", dry_run=dry_run, as_json=as_json)


def _is_foreign(path: Path) -> bool:
    """A program of that name which is no link is not ours to remove."""
    return path.parent.name == "bin" and not path.is_symlink()


def _purge(target: Target, *, dry_run: bool) -> list[Change]:
    """Two folders by their names, and what is in them; a link in their place is not followed."""
    changes = []
    for name in (CONFIG_FOLDER, STATE_FOLDER):
        path = target.path(name)
        if path.is_symlink() or not path.is_dir() or os.path.ismount(path):
            continue
        if not dry_run:
            try:
                shutil.rmtree(path)
            except OSError as error:
                raise DeployError(f"cannot remove {path} ({error.strerror}): run as root") from error
        changes.append(Change(name, "remove"))
    return changes


@service.command()
@_json
def status(as_json: bool) -> None:
    """Whether it runs, how often it was started again, and what to do."""
    with one_line_errors():
        manager = Manager(Target())
        manager.require_running()
        found = read_status(manager.show(PROPERTIES))
        click.echo(json.dumps(found.as_json()) if as_json else _described(found))
        sys.exit(0 if found.is_well else 3)


def _described(status: Status) -> str:
    lines = [
        f"state      {status.state}{f', since {status.since}' if status.is_well and status.since else ''}",
        f"at boot    {'starts' if status.enabled else 'does not start'}",
        *([f"says       {status.says}"] if status.says else []),
        f"restarts   {status.restarts}{f'; {status.last_exit}' if status.last_exit else ''}",
    ]
    if status.memory_bytes is not None:
        limit = f" of {status.memory_max_bytes >> 20} MiB at most" if status.memory_max_bytes else ""
        lines.append(f"memory     {status.memory_bytes >> 20} MiB{limit}")
    if status.advice:
        lines.append(f"next       {status.advice}")
    return "\n".join(lines)


@service.command()
@click.option("--lines", "-n", default=100, type=click.IntRange(min=0), help="The last so many. Default: 100")
@click.option("--follow", "-f", is_flag=True, help="And those that come.")
@click.option("--since", help='As journalctl has it: "1 hour ago", today, 2026-11-27.')
def logs(lines: int, follow: bool, since: str | None) -> None:
    """What the service wrote to the journal."""
    command = ["journalctl", f"--unit={UNIT}", "--output=cat", f"--lines={lines}"]
    command += [*(["--follow"] if follow else ["--no-pager"]), *([f"--since={since}"] if since else [])]
    program = shutil.which(command[0])
    if program is None:
        raise click.ClickException("journalctl is not installed: it belongs to systemd")
    os.execv(program, command)
