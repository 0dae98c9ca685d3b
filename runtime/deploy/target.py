"""The file system that is installed to: this machine's, or an image's that is mounted somewhere."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import DeployError

_MAX_LINKS = 40  # as the kernel has it
_LIBRARY = re.compile(r"libsystemd-shared-(\d+)")


@dataclass(frozen=True)
class Target:
    """`root` is / for this machine."""

    root: Path = Path("/")

    @property
    def is_this_machine(self) -> bool:
        return self.root == Path("/")

    def path(self, absolute: str | Path) -> Path:
        """Where the target's path `absolute` is here. A link of an image, also to /etc, leads to a place in the image.

        Raises DeployError for links that lead in circles.
        """
        parts, links = list(Path(absolute).parts[1:]), 0
        found = self.root
        while parts:
            part = parts.pop(0)
            if part == "..":
                found = found.parent if found != self.root else found
                continue
            step = found / part
            if parts and step.is_symlink():  # the last part is what is placed, and replaced
                links += 1
                if links > _MAX_LINKS:
                    raise DeployError(f"{absolute} leads in circles in {self.root}: look at its links")
                pointed = step.readlink()
                if pointed.is_absolute():
                    found = self.root
                parts = [part for part in pointed.parts if part != "/"] + parts
                continue
            found = step
        return found

    def name_of(self, path: Path) -> str:
        """What the target calls `path`, which is in it. Raises DeployError if it is not."""
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a virtual environment's python
        if self.is_this_machine:
            return str(absolute)
        try:
            return f"/{absolute.relative_to(self.root)}"
        except ValueError as error:
            message = f"{absolute} is not in {self.root}: name the folder of edgeqwend there with --bin-dir"
            raise DeployError(message) from error

    @property
    def systemd_version(self) -> int | None:
        """By its library's name, so that it need not run; None where there is none."""
        folders = ("usr/lib/systemd", "usr/lib64/systemd", "lib/systemd", "usr/lib/*/systemd")
        names = (path.name for folder in folders for path in self.root.glob(f"{folder}/libsystemd-shared-*"))
        return max((int(found[1]) for name in names if (found := _LIBRARY.match(name))), default=None)

    def groups(self) -> frozenset[str]:
        """Names of the groups there are."""
        try:
            lines = self.path("/etc/group").read_text(encoding="utf-8").splitlines()
        except OSError:
            return frozenset()
        return frozenset(line.partition(":")[0] for line in lines)
