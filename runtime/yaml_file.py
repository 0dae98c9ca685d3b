"""YAML from outside: of a bounded size, no key twice, and what is wrong with it in one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from .errors import Fault, InvalidInput

_MAX_BYTES = 1 << 20


def read_yaml(path: Path, error: type[InvalidInput]) -> object:
    """What the file says; None if that is nothing. Raises `error`."""
    try:
        with path.open("rb") as file:
            return parse_yaml(file.read(_MAX_BYTES + 1))
    except (OSError, ValueError) as failure:
        raise error([Fault("", f"cannot be read: {' '.join(str(failure).split())}")], str(path)) from failure


def parse_yaml(content: bytes) -> object:
    """What `content` says. Raises ValueError."""
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES >> 20} MiB")
    try:
        return yaml.load(content.decode(), _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


class _Loader(yaml.SafeLoader):
    """A key that is there twice is a mistake, of which YAML's own reader takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = Counter((key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [value for (_, value), count in keys.items() if count > 1]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {', '.join(twice)} is there more than once")
        return node
