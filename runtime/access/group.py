"""Whose members may connect to a unix socket."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import structlog


def give_to_group(path: Path, group: str) -> None:
    """Gives the socket at `path` to a group; where that is not to be done, it stays this user's own group's."""
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except (KeyError, PermissionError) as error:
        reason = "there is no such group" if isinstance(error, KeyError) else "this user is not in it"
        structlog.get_logger().info("socket left to own group", wanted=group, reason=reason, gid=os.getegid())
