"""A site with boards: a network of its own, on which Debian systems boot, answer to ssh and lose power.

Each board is a systemd-nspawn in a network namespace, on an ext4 disk of its own over a shared, read-only Debian. None
can write to this machine's file system, no packet leaves the site, and all of it ends with this process.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cgroup2

HERE = Path(__file__).parent
TOOLS = ("unshare", "nsenter", "ip", "losetup", "mkfs.ext4", "ssh", "ssh-keygen")
NETWORK = "10.77.0"
CONTROLLER = f"{NETWORK}.1"

_NAMESPACES = ("--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup")
_DISK = "2G"  # sparse
_TIMEOUT_S = 300
_EXT4_IOC_SHUTDOWN = 0x8004587D
_GOING_DOWN_WITHOUT_LOG_FLUSH = 2
_SSH_CONFIG = """\
User admin
IdentityFile {folder}/key
UserKnownHostsFile {folder}/known_hosts
StrictHostKeyChecking accept-new
LogLevel ERROR
ConnectTimeout 10
"""


def missing() -> str:
    """Why there can be no site here; empty if there can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces of its own"
    if not Path("/dev/loop-control").exists():
        return "needs loop devices, for the boards' disks"
    if not any(os.access(mount, os.W_OK) for mount in cgroup2.mounts()):
        return "needs cgroups of version 2"
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(lacking)}"
    tried = subprocess.run(["unshare", *_NAMESPACES, "--fork", "true"], capture_output=True, check=False)
    return "" if tried.returncode == 0 else "needs the right to make namespaces"


@dataclass(frozen=True)
class Site:
    """Where the controller and the boards are.

    Args:
        root: the Debian of the boards.
        folder: for their disks, and the controller's key.
        pid: of the process whose namespaces it has.
        powered: what runs boards, or did.
    """

    root: Path
    folder: Path
    cgroup: Path
    pid: int
    powered: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    def run(self, *command: str | Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """On the controller."""
        return subprocess.run(
            self.on_network(*command),
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def address(self, number: int) -> str:
        """Of the board with that number."""
        return f"{NETWORK}.{10 + number}"

    def on_network(self, *command: str | Path) -> list[str]:
        """The command with this machine's files and the site's network."""
        return ["nsenter", f"--target={self.pid}", "--net", *map(str, command)]

    def within(self, *command: str | Path) -> list[str]:
        """The command in all namespaces of the site, where disks are mounted and links are made."""
        return ["nsenter", f"--target={self.pid}", "--all", *map(str, command)]

    def board(self, name: str, number: int, files: Mapping[str, str] = {}) -> Board:
        """A new one, off, with these files on its disk beside the system's. cloud-init rests unless they are a seed."""
        folder = self.folder / name
        seed = folder / "seed"
        ours = {
            "etc/hostname": f"{name}\n",
            "etc/hosts": f"127.0.0.1 localhost {name}\n",
            "etc/ssh/authorized_keys/admin": (self.folder / "key.pub").read_text(),
        }
        if not any(path.startswith("var/lib/cloud/seed/") for path in files):
            ours["etc/cloud/cloud-init.disabled"] = ""
        for path, content in {**ours, **files}.items():
            file = seed / "upper" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        (seed / "work").mkdir()
        subprocess.run(["mkfs.ext4", "-q", "-d", seed, folder / "disk", _DISK], check=True, stdout=subprocess.DEVNULL)
        return Board(name, self.address(number), self, folder)


@dataclass(frozen=True)
class Board:
    """One system of the site."""

    name: str
    address: str
    site: Site
    folder: Path

    def boot(self) -> None:
        """Returns when it answers to ssh."""
        command = self.site.within("bash", HERE / "board.sh", self.name, self.address, self.site.root, self.folder)
        console = self.folder / "console"
        with console.open("a") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.site.powered.append(process)
        self._within_time(lambda: process.poll() is not None or self.ssh("true").returncode == 0)
        assert self.ssh("true").returncode == 0, f"{self.name} does not boot:\n{console.read_text()[-2000:]}"

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a shell's command as root, through the user whom Ansible comes as."""
        words = ("sudo", "sh", "-c", shlex.quote(command))
        return self.site.run("ssh", "-F", self.site.ssh_config, self.address, *words)

    def run(self, command: str) -> str:
        """What a command prints, which must succeed."""
        done = self.ssh(command)
        assert done.returncode == 0, f"{self.name}: {command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def cut_power(self) -> None:
        """All stops at once, without a word to others, and what was not synced to the disk is lost."""
        self._in_site("ip", "link", "delete", f"to-{self.name}")
        cgroup2.kill(self.site.cgroup / self.name)
        self._lose_what_is_not_synced()
        self._in_site("umount", self.folder / "root")
        self._in_site("umount", self.folder / "mount")
        assert self._within_time(self._is_off), f"something holds the disk of {self.name}"

    def _is_off(self) -> bool:
        return not subprocess.run(["losetup", "-j", self.folder / "disk"], capture_output=True, check=True).stdout

    def _within_time(self, condition: Callable[[], bool]) -> bool:
        """Whether it came true within minutes: what takes longer never ends."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        while not (met := condition()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        return met

    def _lose_what_is_not_synced(self) -> None:
        handle = os.open(f"/proc/{self.site.pid}/root{self.folder}/mount", os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(handle, _EXT4_IOC_SHUTDOWN, struct.pack("I", _GOING_DOWN_WITHOUT_LOG_FLUSH))
        finally:
            os.close(handle)

    def _in_site(self, *command: str | Path) -> None:
        subprocess.run(self.site.within(*command), check=True, capture_output=True)


@contextmanager
def open_site(root: Path, folder: Path) -> Iterator[Site]:
    """The network, and a key for its boards; at the end boards and disks are gone."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    (folder / "ssh_config").write_text(_SSH_CONFIG.format(folder=folder))
    with cgroup2.own_cgroup() as cgroup:
        enter = ["bash", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup)]
        become = ["unshare", *_NAMESPACES, "--fork", "--kill-child", "bash", str(HERE / "site.sh"), CONTROLLER]
        with subprocess.Popen([*enter, *become], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            [pid] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            site = Site(root, folder, cgroup, int(pid))
            yield site
        for board in site.powered:
            board.wait()
    for disk in folder.glob("*/disk"):
        disk.unlink()
