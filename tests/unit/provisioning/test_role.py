"""The role's interface: what its documentation says of a variable is so."""

from __future__ import annotations

from pathlib import Path

import yaml

ROLE = Path(__file__).parents[3] / "provisioning" / "ansible" / "roles" / "edgeqwen"
SPECS = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
OPTIONS = SPECS["main"]["options"]


def test_every_default_is_documented_and_is_what_is_documented() -> None:
    documented = {name: option["default"] for name, option in OPTIONS.items() if not option.get("required")}
    assert documented == DEFAULTS


def test_every_variable_says_what_it_is() -> None:
    assert [name for name, option in OPTIONS.items() if not option["description"].endswith(".")] == []


def test_the_other_ways_in_take_the_same_variables() -> None:
    """A wave, and a first boot, begin with the validation that provisioning begins with."""
    assert set(SPECS) == {"main", "user_data", "wave"}
    assert all(spec["options"] == OPTIONS for spec in SPECS.values())
    assert all((ROLE / "tasks" / f"{name}.yml").is_file() for name in SPECS)
