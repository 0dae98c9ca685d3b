"""A Debian as boards have it, made once from its packages, and kept. Nothing of this machine is in it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
SUITE = "bookworm"
PYTHON, GLIBC = "3.11", (2, 36)  # the suite's
PACKAGES = (
    *("systemd-sysv", "dbus", "iproute2", "openssh-server", "sudo", "python3-venv", "ca-certificates", "cloud-init"),
    *("systemd-container", "docker-registry"),  # what boots the boards, and what serves them packages
)
_PREPARE = """\
set -e
useradd --create-home --shell /bin/bash admin
echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin
systemctl --quiet disable docker-registry apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer
systemctl --quiet mask e2scrub_all.timer fstrim.timer console-getty.service
rm -f /etc/ssh/ssh_host_* /etc/hostname
echo 'AuthorizedKeysFile /etc/ssh/authorized_keys/%u' > /etc/ssh/sshd_config.d/keys.conf
mkdir /etc/systemd/system/ssh.service.d
printf '[Service]\\nExecStartPre=\\nExecStartPre=ssh-keygen -A\\n' > /etc/systemd/system/ssh.service.d/keys.conf
"""
"""Each board makes its own host keys. A registry runs where it is started."""


class Missing(Exception):
    """What this machine lacks, in one sentence that says what to do."""


def make_root(kept: Path) -> Path:
    """The root file system, made in `kept` unless it is there. Raises Missing."""
    made_from = "\0".join((SUITE, *PACKAGES, _PREPARE))
    folder = kept / f"{SUITE}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    for tool in ("apt-get", "dpkg-deb", "perl", "chroot"):
        if shutil.which(tool) is None:
            raise Missing(f"there is no {tool} here: run this on Debian, or on a system made from it")
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=kept) as scratch:
        part = Path(scratch) / "root"
        program = _mmdebstrap(Path(scratch))
        include = ",".join(PACKAGES)
        _run(
            *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "perl", str(program)),
            *("--mode=root", "--variant=minbase", f"--include={include}", SUITE, str(part), MIRROR),
        )
        _run("unshare", "--mount", "--pid", "--fork", "--net", "chroot", str(part), "sh", "-c", _PREPARE)
        part.rename(folder)
    return folder


def _mmdebstrap(folder: Path) -> Path:
    """The program that makes such roots; it need not be installed."""
    if program := shutil.which("mmdebstrap"):
        return Path(program)
    folder.chmod(0o755)  # apt downloads as a user of its own
    _run("apt-get", "download", "--quiet", "mmdebstrap", where=folder)
    [archive] = folder.glob("mmdebstrap_*.deb")
    _run("dpkg-deb", "--extract", str(archive), str(folder / "mmdebstrap"))
    return folder / "mmdebstrap" / "usr" / "bin" / "mmdebstrap"


def _run(*command: str, where: Path | None = None) -> None:
    done = subprocess.run(command, cwd=where, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Missing(f"Debian's packages cannot be fetched from {MIRROR} (is there a network?): {said}")
