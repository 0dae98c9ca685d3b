"""A 64-bit ARM board without a board: Debian's Python and PyPI's aarch64 wheels under qemu's user mode emulation.

Neither root's rights nor a foreign architecture of dpkg are needed: apt gets a configuration of its own, and packages
are unpacked, not installed. What was fetched stays in a folder and is used again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[2]

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
SUITE = "trixie"  # its qemu-user needs no library and runs onnxruntime; that of bookworm, 7.2, crashes on importing it
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PYTHON = "3.13"  # the suite's
PACKAGES = (f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libstdc++6")
GLIBC = (2, 31)  # the oldest that a wheel of ours asks for, llguidance 1.9

_APT_CONFIG = """\
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; "{host}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""


class Missing(Exception):
    """What the emulated board needs and this machine lacks, in one sentence that says what to do."""


@dataclass(frozen=True)
class Board:
    """Debian's files, our wheel with what it requires, and the emulator to run them with."""

    emulator: Path
    root: Path
    libraries: tuple[Path, ...]

    def python(self, cpu: str, *arguments: str) -> list[str]:
        """Python on a `cpu` that qemu knows, such as cortex-a76; it sees the wheel, whatever folder it is in."""
        python = self.root / "usr" / "bin" / f"python{PYTHON}"
        return [str(self.emulator), "-cpu", cpu, "-L", str(self.root), str(python), "-P", *arguments]

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "PYTHONPATH": os.pathsep.join(map(str, self.libraries)),
            "PATH": os.defpath,
            "ORT_DISABLE_TELEMETRY": "1",
            "EDGEQWEN_STATE_DIR": "/nowhere",
        }


def make_board(kept: Path, scratch: Path) -> Board:
    """Fetches into `kept` what is not there yet, and puts this checkout's wheel into `scratch`. Raises Missing."""
    debian = _debian(kept)
    wheel = _wheel(scratch)
    ours = scratch / "edgeqwen"
    _install(ours, "--no-deps", str(wheel))
    return Board(debian / "qemu-aarch64", debian / "root", (ours, _requirements(wheel, kept)))


def _debian(kept: Path) -> Path:
    """A folder with the emulator and the root."""
    folder = kept / f"debian-{_key(SUITE, *PACKAGES)}"
    if not folder.is_dir():
        for tool in ("apt-get", "dpkg", "dpkg-deb", "tar"):
            if shutil.which(tool) is None:
                raise Missing(f"there is no {tool} here: run this on Debian, or on a system made from it")
        if not KEYRING.is_file():
            raise Missing(f"Debian's keys are not at {KEYRING}: apt-get install debian-archive-keyring")
        with _made_whole(folder) as part:
            for archive in _fetch(part / "apt"):
                if archive.name.startswith("qemu-user_"):
                    _unpack(archive, part, "--strip-components=3", "./usr/bin/qemu-aarch64")
                else:
                    _unpack(archive, part / "root")
            (part / "root" / "lib").symlink_to("usr/lib")  # what a package made when it was installed
            shutil.rmtree(part / "apt")
    return folder


def _fetch(folder: Path) -> list[Path]:
    """Downloads the packages with all that they depend on, and the emulator for this host."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "archives" / "partial").mkdir(parents=True)
    (folder / "status").touch()
    host = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
    architectures = ",".join(sorted({"arm64", host}))
    source = f"deb [arch={architectures} signed-by={KEYRING}] {MIRROR} {SUITE} main\n"
    (folder / "sources.list").write_text(source)
    (folder / "apt.conf").write_text(_APT_CONFIG.format(folder=folder, host=host))
    packages = [*PACKAGES, f"qemu-user:{host}"]
    for command in (["update", "--error-on=any"], ["install", "--yes", "--download-only", *packages]):
        done = subprocess.run(
            ["apt-get", "--quiet", *command],
            env=os.environ | {"APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
            raise Missing(f"apt-get cannot fetch Debian's arm64 packages from {MIRROR} (is there a network?): {said}")
    return sorted((folder / "archives").glob("*.deb"))


def _unpack(archive: Path, folder: Path, *only: str) -> None:
    folder.mkdir(exist_ok=True)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as files:
        subprocess.run(["tar", "-x", "-C", str(folder), *only], stdin=files.stdout, check=True)
    assert files.returncode == 0


def _wheel(scratch: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(scratch), str(REPO)]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    [wheel] = scratch.glob("*.whl")
    return wheel


def _requirements(wheel: Path, kept: Path) -> Path:
    """A folder with what the wheel's runtime extra requires on a board."""
    project = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    folder = kept / f"wheels-{_key(project, PYTHON, str(GLIBC))}"
    if not folder.is_dir():
        with _made_whole(folder) as part:
            _install(part, f"{wheel}[runtime]")
            for path in [*part.glob("edgeqwen*"), part / "runtime", part / "toolchain"]:  # each run brings its own
                shutil.rmtree(path)
    return folder


def _install(target: Path, *arguments: str) -> None:
    """As a board would; by uv or else by pip, as the Makefile does. Raises Missing."""
    major, minor = GLIBC
    common = ["--target", str(target), "--only-binary", ":all:", "--python-version", PYTHON, *arguments]
    tags = (f"manylinux_{major}_{minor}", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
    platforms = [word for tag in tags for word in ("--platform", f"{tag}_aarch64")]
    uv = ["uv", "pip", "install", "--quiet", "--system-certs", "--python-platform", f"aarch64-{tags[0]}", *common]
    pip = ["pip", "install", "--quiet", "--no-input", "--no-compile", "--implementation", "cp", *platforms, *common]
    if _module(uv).returncode != 0 and (done := _module(pip)).returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Missing(f"pip cannot fetch the aarch64 wheels of edgeqwen[runtime] (is there a network?): {said}")


def _module(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """A scratch folder that takes the place of `folder` at the end of the block."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as scratch:
        part = Path(scratch) / folder.name
        part.mkdir()
        yield part
        part.rename(folder)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
