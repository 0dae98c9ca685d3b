"""`edgeqwen-compile doctor`: what this host can build, and what to do about the rest."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime.profile import Profile, builtin_profiles, find_profile, parse_profile
from toolchain.cli import main
from toolchain.doctor import Host, examine, read_host
from toolchain.requirements import CPU, DISK_BYTES, MEMORY_BYTES, REQUIREMENTS

DECLARED = [
    "click>=8.1,<9",
    'olive-ai==0.13.0; extra == "toolchain"',
    'Torch==2.13.0; extra == "toolchain"',
    'backports-only==1; python_version < "3" and extra == "toolchain"',
    'pytest>=8; extra == "dev"',
]
HOST = Host(
    arch="x86_64",
    installed={"click": "8.5.1", "olive-ai": "0.13.0", "torch": "2.13.0+cpu"},
    onnxruntimes=("onnxruntime",),
    memory_bytes=MEMORY_BYTES,
    disk_bytes=DISK_BYTES,
)
PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))["project"]


def on_cpu() -> Profile:
    return find_profile("raspberry-pi-5")


def problems(host: Host, profile: Profile | None = None) -> tuple[str, ...]:
    [target] = examine(host, [profile or on_cpu()], DECLARED)
    return target.problems


def test_a_host_with_what_the_extra_asks_can_build() -> None:
    """Markers, spelling and local versions count as pip counts them; what other extras ask for does not."""
    assert problems(HOST) == ()


def test_all_that_is_missing_or_of_another_version_is_said_at_once() -> None:
    """With the command that mends it."""
    host = replace(HOST, installed={"click": "8.5.1", "olive-ai": "0.14.0"})
    assert problems(host) == (
        "Torch is missing, olive-ai is 0.14.0 and must be ==0.13.0: pip install 'edgeqwen[toolchain]'",
    )


def test_two_onnxruntimes_in_one_environment_are_a_problem() -> None:
    """They have files of the same names, and which of them won depends on the order of installation."""
    [problem] = problems(replace(HOST, onnxruntimes=("onnxruntime", "onnxruntime-gpu")))
    assert "onnxruntime and onnxruntime-gpu overwrite each other" in problem


@pytest.mark.parametrize(
    ("less", "words"),
    [({"memory_bytes": MEMORY_BYTES - 1}, "of memory are available"), ({"disk_bytes": 0}, "0.0 MB are free")],
)
def test_too_little_memory_or_disk_is_a_problem(less: dict[str, int], words: str) -> None:
    """What the smallest build takes is said beside it."""
    [problem] = problems(replace(HOST, **less))
    assert words in problem
    assert "the smallest build takes" in problem


def test_what_cannot_be_built_anywhere_says_why_and_nothing_of_this_host() -> None:
    """Whatever is missing here would not help."""
    [problem] = problems(replace(HOST, installed={}), find_profile("amd-ryzen-ai"))
    assert "VitisAI" in problem
    assert problem.endswith("use generic-x86_64 meanwhile")


def test_a_provider_that_nobody_compiles_for_is_said_to_be_so() -> None:
    data = on_cpu().model_dump() | {"execution": {"provider": "SomeExecutionProvider"}}
    [problem] = problems(HOST, parse_profile(data, "x"))
    assert "not for SomeExecutionProvider" in problem


def test_profiles_that_come_along_have_requirements_or_a_reason() -> None:
    """A provider without a row would be refused for no good reason; a row asks for an extra that exists."""
    for profile in map(find_profile, builtin_profiles()):
        assert (profile.execution.provider in REQUIREMENTS) != bool(profile.execution.unsupported)
    for requirement in REQUIREMENTS.values():
        assert requirement.extra in PROJECT["optional-dependencies"]


def test_targets_of_a_provider_stand_together_in_the_order_of_the_table() -> None:
    """Those on the CPU first; what has no row comes last."""
    assert next(iter(REQUIREMENTS)) == CPU
    profiles = [find_profile(name) for name in builtin_profiles()]
    providers = [target.provider for target in examine(HOST, profiles, DECLARED)]
    known = [provider for provider in REQUIREMENTS if provider in providers]
    assert list(dict.fromkeys(providers)) == [*known, *sorted(set(providers) - set(known))]


def test_the_command_answers_for_this_environment(tmp_path: Path) -> None:
    """The tests run where packages are built, so that is what it says; the cache need not exist."""
    cache = tmp_path / "not" / "there"
    assert read_host(cache).disk_bytes > 0
    done = CliRunner().invoke(main, ["doctor", "--cache", str(cache)])
    told = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    lacking = {row["profile"]: row["problems"] for row in told["targets"] if row["provider"] == CPU and row["problems"]}
    assert done.exit_code == (1 if lacking else 0), lacking
    assert {row["profile"] for row in told["targets"]} == set(builtin_profiles())
    assert "CPUExecutionProvider: " in done.stdout
    assert "VitisAIExecutionProvider: cannot build amd-ryzen-ai" in done.stdout
    assert not cache.exists()
