"""The Qwen models that can be recommended: what each is for, and its shape."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import yaml

from .sizes import Shape, shape_of

TASKS = ("chat", "code", "math", "reasoning")


@dataclass(frozen=True)
class Model:
    """A model on the hub.

    Args:
        task: what it was trained for.
        licence: its name, if it does not allow every use; None for Apache 2.0.
    """

    id: str
    task: str
    shape: Shape
    licence: str | None


def read_models() -> list[Model]:
    """All of `data/models.yaml`."""
    data = yaml.safe_load(resources.files("toolchain").joinpath("data", "models.yaml").read_text(encoding="utf-8"))
    shapes = {name: shape_of(config, name) for name, config in data["shapes"].items()}
    return [Model(each["id"], each["task"], shapes[each["shape"]], each.get("licence")) for each in data["models"]]
