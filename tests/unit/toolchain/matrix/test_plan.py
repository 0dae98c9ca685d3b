"""From a matrix to jobs: the product, what is left out of it, and what is added; and everything that can be wrong."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import MatrixError
from toolchain.matrix.file import read_matrix_file
from toolchain.matrix.plan import Job, jobs_of

MODELS = ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen3-0.6B", "reference")
PROFILES = ("generic-x86_64", "raspberry-pi-5", "rk3588-cpu")
PRECISIONS = ("int4", "int8", "float32")
AXES = ("model", "profile", "precision")
NOTHING = "nothing is left to build: models x profiles x precisions, less exclude, and include make it"
_NESTED = (f"{chr(at + 1)}: &{chr(at + 1)} [{','.join(['*' + chr(at)] * 9)}]" for at in range(ord("a"), ord("i")))
BOMB = "\n".join(["a: &a [x]", *_NESTED, "models: *i"])
"""A few hundred bytes that name one text 9^8 times."""


def jobs(folder: Path, *, here: bool = True, **content: object) -> list[Job]:
    file = folder / "matrix.yaml"
    file.write_text(yaml.safe_dump(content))
    return jobs_of(read_matrix_file(file), folder, "matrix.yaml", sources_are_here=here)


def faults(folder: Path, *, here: bool = True, **content: object) -> list[str]:
    """Of a matrix that is refused."""
    with pytest.raises(MatrixError) as refused:
        jobs(folder, here=here, **content)
    return [str(fault) for fault in refused.value.faults]


def built(found: list[Job]) -> set[tuple[str, str, str]]:
    """Model, profile and precision of every variant."""
    return {(job.source, profile.name, job.precision) for job in found for profile in job.profiles}


def test_a_job_is_a_model_at_a_precision_with_all_profiles(tmp_path: Path) -> None:
    """Variants share weights and so a package; jobs of different models come in turn."""
    found = jobs(
        tmp_path, models=MODELS[:2], profiles=PROFILES[:2], precisions=["int4", "int8"], package_version="1.2.0"
    )
    assert [job.name for job in found] == [
        "qwen2.5-0.5b-instruct-int4",
        "qwen3-0.6b-int4",
        "qwen2.5-0.5b-instruct-int8",
        "qwen3-0.6b-int8",
    ]
    assert {tuple(profile.name for profile in job.profiles) for job in found} == {PROFILES[:2]}
    assert {job.version for job in found} == {"1.2.0"}


def test_without_precisions_each_profile_has_its_own(tmp_path: Path) -> None:
    """And is in the package of that precision."""
    found = jobs(tmp_path, models=["reference"], profiles=["generic-x86_64", "snapdragon-x-elite", "raspberry-pi-5"])
    own = {profile.name: profile.quantization.precision for job in found for profile in job.profiles}
    assert built(found) == {("reference", name, precision) for name, precision in own.items()}


ROW = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(MODELS),
        "profile": st.sampled_from(PROFILES),
        "precision": st.sampled_from(PRECISIONS),
    },
).filter(bool)


@given(
    models=st.sets(st.sampled_from(MODELS), min_size=1),
    profiles=st.sets(st.sampled_from(PROFILES), min_size=1),
    precisions=st.sets(st.sampled_from(PRECISIONS), min_size=1),
    excluded=st.lists(ROW, max_size=3),
    included=st.sets(st.tuples(*map(st.sampled_from, (MODELS, PROFILES, PRECISIONS))), max_size=3),
)
def test_what_is_built_is_the_product_less_the_excluded_and_the_included(
    tmp_path_factory: pytest.TempPathFactory,
    models: set[str],
    profiles: set[str],
    precisions: set[str],
    excluded: list[dict[str, str]],
    included: set[tuple[str, str, str]],
) -> None:
    """As GitHub's documentation has it: include comes after exclude, and brings back what that left out. A package has
    each variant once."""
    whole = {
        combination: dict(zip(AXES, combination, strict=True))
        for combination in product(sorted(models), sorted(profiles), sorted(precisions))
    }

    def fits(names: dict[str, str], row: dict[str, str]) -> bool:
        return row.items() <= names.items()

    useful = [row for row in excluded if any(fits(names, row) for names in whole.values())]
    left = {key for key, names in whole.items() if not any(fits(names, row) for row in useful)}
    left |= included
    content = {
        "models": sorted(models),
        "profiles": sorted(profiles),
        "precisions": sorted(precisions),
        "exclude": useful,
        "include": [dict(zip(AXES, names, strict=True)) for names in sorted(included)],
    }
    folder = tmp_path_factory.mktemp("matrix")
    if not left:
        assert faults(folder, **content) == [NOTHING]
        return
    found = jobs(folder, **content)
    assert built(found) == left
    assert sum(len(job.profiles) for job in found) == len(left)
    assert len({job.name for job in found}) == len(found)


def test_rows_of_lists_are_as_many_rows(tmp_path: Path) -> None:
    found = jobs(
        tmp_path,
        models=MODELS[:2],
        profiles=PROFILES,
        precisions=["int4", "int8"],
        exclude=[{"model": MODELS[0], "profile": list(PROFILES[1:])}],
        include=[{"model": "reference", "profile": list(PROFILES[:2]), "precision": ["int8", "float32"]}],
    )
    assert built(found) == (
        set(product(MODELS[:1], PROFILES[:1], ("int4", "int8")))
        | set(product(MODELS[1:2], PROFILES, ("int4", "int8")))
        | set(product(("reference",), PROFILES[:2], ("int8", "float32")))
    )


def test_settings_go_to_all_that_a_row_fits(tmp_path: Path) -> None:
    """Later rows over earlier ones; files are found beside the matrix; a merged adapter is in the name."""
    (tmp_path / "texts.jsonl").write_text("")
    (tmp_path / "pumps-lora").mkdir()
    found = {
        job.name: job
        for job in jobs(
            tmp_path,
            models=MODELS[:2],
            profiles=PROFILES[:2],
            precisions=["int4", "int8"],
            include=[
                {"precision": "int4", "calibration": "texts.jsonl"},
                {"allow_low_fidelity": True},
                {"model": MODELS[1], "revision": "main", "allow_low_fidelity": False},
                {"model": MODELS[1], "precision": "int8", "merge_adapter": "./pumps-lora"},
            ],
        )
    }
    assert found.keys() == {
        "qwen2.5-0.5b-instruct-int4",
        "qwen2.5-0.5b-instruct-int8",
        "qwen3-0.6b-int4",
        "qwen3-0.6b-pumps-lora-int8",
    }
    first, second = found["qwen2.5-0.5b-instruct-int4"], found["qwen3-0.6b-pumps-lora-int8"]
    assert (first.calibration, first.revision, first.allow_low_fidelity) == (tmp_path / "texts.jsonl", None, True)
    assert (second.calibration, second.revision, second.allow_low_fidelity) == (None, "main", False)
    assert second.merge_adapter == tmp_path / "pumps-lora"


def test_models_are_folders_where_there_are_such_and_hub_ids_elsewhere(tmp_path: Path) -> None:
    """With a cluster a folder need not be here: workers may see it."""
    (tmp_path / "models" / "Mine").mkdir(parents=True)
    (tmp_path / "other.Q8_0.gguf").touch()
    models = ["models/Mine", "models/Other", "reference", "other.Q8_0.gguf"]
    assert [(job.source, job.name) for job in jobs(tmp_path, models=models, profiles=["generic-x86_64"])] == [
        (str(tmp_path / "models" / "Mine"), "mine-int4"),
        ("models/Other", "other-int4"),
        ("reference", "smollm2-135m-instruct-int4"),
        (str(tmp_path / "other.Q8_0.gguf"), "other.q8-0-int4"),
    ]
    [missing] = faults(tmp_path, models=["./nowhere"], profiles=["generic-x86_64"])
    assert missing == f"models[0]: there is no folder or file {tmp_path / 'nowhere'}"
    [job] = jobs(tmp_path, here=False, models=["./nowhere"], profiles=["generic-x86_64"])
    assert job.source == str(tmp_path / "nowhere")


def test_every_fault_is_named_at_once_with_its_place(tmp_path: Path) -> None:
    """Whatever else there is to find."""
    (tmp_path / "bad.yaml").write_text("triage: {}")
    found = faults(
        tmp_path,
        models=["reference", "reference", "./nowhere"],
        profiles=["generic-x86_64", "raspberry-pi5", "rockchip-rk3588-npu"],
        precisions=["int4"],
        exclude=[{}, {"precision": "int8"}],
        include=[
            {"precision": "float32", "calibration": "gone.txt"},
            {"presets": "bad.yaml"},
            {"model": "reference", "profile": "raspberry-pi-5", "precision": "float16"},
            {"adapters": {"pumps": "no-lora"}},
        ],
    )
    expected = [
        "exclude[0]: must name a model, a profile or a precision",
        "exclude[1]: fits nothing: values are compared as they are written above",
        "include[0]: fits nothing, and adds nothing without a model and a profile",
        f"include[0].calibration: there is no {tmp_path / 'gone.txt'}",
        f"include[1].presets: {tmp_path / 'bad.yaml'}: presets.triage.description: is required",
        "include[2]: raspberry-pi-5 at float16, which exclude could leave out: ",
        f"include[3].adapters.pumps: there is no {tmp_path / 'no-lora'}",
        "models[1]: is there already (reference)",
        f"models[2]: there is no folder or file {tmp_path / 'nowhere'}",
        "profiles[1]: no profile 'raspberry-pi5': did you mean raspberry-pi-5?",
        "profiles[2]: rockchip-rk3588-npu: no package can be built for it: ",
    ]
    assert [fault[: len(start)] for fault, start in zip(found, expected, strict=True)] == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"models": []}, NOTHING),
        (
            {"models": ["a/b"], "profiles": ["raspberry-pi-5"], "exclude": [{"model": "a/b"}]},
            NOTHING,
        ),
        (
            {
                "models": ["a/b"],
                "profiles": ["raspberry-pi-5", "generic-x86_64"],
                "include": [{"profile": "generic-x86_64", "revision": "x"}],
            },
            "models[0]: gives generic-x86_64 other settings than raspberry-pi-5, and both go into one package",
        ),
        (
            {"models": ["a/qwen", "b/Qwen"], "profiles": ["raspberry-pi-5"]},
            "models[1]: a/qwen and b/Qwen would both be qwen-int4: name a folder otherwise",
        ),
        (
            {"include": [{"model": "a/b", "profile": "raspberry-pi-5"}] * 2},
            "include[1]: adds what another row has added (a/b, raspberry-pi-5, int4)",
        ),
    ],
)
def test_what_makes_no_sense_together_is_said(tmp_path: Path, content: dict[str, object], expected: str) -> None:
    assert faults(tmp_path, **content) == [expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"modles": ["a/b"]}, "modles: is not a known key"),
        ({"models": "a/b"}, "models: must be a valid list (got 'a/b')"),
        ({"precisions": ["int3"]}, "precisions[0]: must be 'int4', 'int8', 'float16' or 'float32' (got 'int3')"),
        ({"exclude": [{"profiles": "a"}]}, "exclude[0].profiles: is not a known key"),
        (
            {"include": [{"adapters": {"A!": "x"}}]},
            "include[0].adapters: a name has a-z, 0-9, '.', '-', '_' (got 'A!')",
        ),
        ({"include": [{"adapter_targets": ["head"]}]}, "include[0].adapter_targets[0]: must be "),
        (
            {"package_version": "1.2"},
            "package_version: must be MAJOR.MINOR.PATCH, three numbers of at most 6 digits (got '1.2')",
        ),
    ],
)
def test_the_form_is_strict(tmp_path: Path, content: dict[str, object], expected: str) -> None:
    [fault] = faults(tmp_path, **content)
    assert fault.startswith(expected)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"models: [", "cannot be read: while parsing"),
        (b"- a", "must be keys and values (got ['a'])"),
        (b"", "nothing is left to build"),
        (b"include:\n- model: a\n  model: b\n", "cannot be read: line 2: model is there more than once"),
        (b'models: ["a\\0b"]', "models[0]: names no file and no model (got 'a\\x00b')"),
        (b"models: [" + b"x" * 256 + b"]", "models[0]: names no file and no model"),
        (b"models: [" + b"x" * 2000 + b"]", "models[0]: must have at most 1024 characters"),
        (BOMB.encode(), "a: is not a known key; b: is not a known key; "),
    ],
)
def test_what_is_no_matrix_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    """In one line, however large or deep."""
    file = tmp_path / "matrix.yaml"
    file.write_bytes(content)
    with pytest.raises(MatrixError) as refused:
        jobs_of(read_matrix_file(file), tmp_path, str(file), sources_are_here=True)
    assert str(refused.value).startswith(f"{file}: {reason}")
    assert len(str(refused.value).splitlines()) == 1


def test_a_product_without_bounds_is_refused(tmp_path: Path) -> None:
    """Before anything is made of it."""
    [fault] = faults(tmp_path, models=[f"a/{at}" for at in range(2000)], profiles=["raspberry-pi-5", *"abcde"])
    assert fault == "has more than 10000 combinations: make several of it"
