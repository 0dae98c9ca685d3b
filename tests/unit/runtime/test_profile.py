"""Profiles: strict, explained, and every fault at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ProfileError
from runtime.profile import Profile, builtin_profiles, find_profile, parse_profile, require_buildable


def valid() -> dict[str, object]:
    return find_profile("generic-x86_64").model_dump()


@pytest.mark.parametrize("name", builtin_profiles())
def test_profiles_that_come_along_are_valid(name: str) -> None:
    """All but those for any machine of an architecture say how theirs is recognized."""
    profile = find_profile(name)
    assert profile.name == name
    any_machine = ("generic-arm64", "generic-x86_64", "openvino-x86_64")
    assert any(profile.detect.model_dump().values()) != (name in any_machine)


def test_the_boards_that_are_promised_have_profiles() -> None:
    promised = {"raspberry-pi-5", "raspberry-pi-4", "rk3588-cpu", "generic-arm64", "generic-x86_64"}
    promised |= {"qualcomm-qcs6490", "qualcomm-qcs8550", "snapdragon-x-elite", "intel-core-ultra-npu"}
    promised |= {"jetson-orin-nano", "jetson-agx-orin", "jetson-agx-thor", "amd-ryzen-ai", "rockchip-rk3588-npu"}
    assert promised <= set(builtin_profiles())


@pytest.mark.parametrize("name", builtin_profiles())
def test_arm_cores_with_dot_product_get_the_blocks_that_kleidiai_takes(name: str) -> None:
    """Symmetric blocks of 32 on a processor that has the instructions; elsewhere they would only cost fidelity."""
    profile = find_profile(name)
    if profile.device.arch == "aarch64" and profile.execution.provider == "CPUExecutionProvider":
        int4 = profile.quantization.int4
        assert ("asimddp" in profile.device.isa) == (int4.symmetric and int4.block_size == 32)


def test_what_cannot_be_built_names_a_profile_that_can() -> None:
    """The reason is one line, and all reasons are given at once."""
    profiles = [find_profile(name) for name in builtin_profiles()]
    refused = [profile for profile in profiles if profile.execution.unsupported]
    with pytest.raises(ProfileError) as refusal:
        require_buildable(profiles)
    assert [fault.path for fault in refusal.value.faults] == [profile.name for profile in refused]
    for profile in refused:
        assert profile.execution.unsupported is not None
        assert "\n" not in profile.execution.unsupported
        assert profile.execution.instead in builtin_profiles()
        require_buildable([find_profile(profile.execution.instead or "")])


def test_a_refusal_says_what_to_use_instead() -> None:
    """A reason without that, and that without a reason, are faults."""
    for execution in ({"unsupported": "it is not out yet"}, {"instead": "generic-x86_64"}):
        data = valid() | {"execution": {"provider": "CPUExecutionProvider", **execution}}
        with pytest.raises(ProfileError, match=r"execution\.instead: goes with execution\.unsupported"):
            parse_profile(data, "board.yaml")


@pytest.mark.parametrize(
    ("detect", "words"),
    [
        ({"device_tree": ["bcm2712"]}, r"detect\.device_tree\[0\]: must match"),
        ({"pci": ["8086:7D1D"]}, r"detect\.pci\[0\]: must match"),
        ({"pci": ["0x8086:0x7d1d"]}, r"detect\.pci\[0\]: must match"),
        ({"usb": []}, r"detect\.usb: is not a known key"),
    ],
)
def test_patterns_that_can_fit_no_device_are_refused(detect: dict[str, object], words: str) -> None:
    with pytest.raises(ProfileError, match=words):
        parse_profile(valid() | {"detect": detect}, "board.yaml")


def test_every_fault_is_reported_at_once_with_its_path() -> None:
    data = valid() | {"colour": "blue", "name": "Big Board"}
    data["runtime"] = {"slots": 0, "kv_cache": {"budget_mb": -1}, "context_tokens": "many", "threads": 2}
    with pytest.raises(ProfileError) as refusal:
        parse_profile(data, "board.yaml")
    assert [str(fault) for fault in refusal.value.faults] == [
        "colour: is not a known key",
        "name: must match ^[a-z0-9][a-z0-9_-]{0,62}$ (got 'Big Board')",
        "runtime.context_tokens: must be a valid integer (got 'many')",
        "runtime.kv_cache.budget_mb: must be > 0 (got -1)",
        "runtime.prefill_chunk_tokens: is required",
        "runtime.slots: must be >= 1 (got 0)",
    ]


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("runtime", {"threads": 3}, "runtime.threads: must be <= device.cores, 2 (got 3)"),
        ("runtime", {"kv_cache": {"budget_mb": 4096}}, "runtime.kv_cache.budget_mb: must be < device.memory_mb, 4096"),
        (
            "runtime",
            {"kv_cache": {"budget_mb": 64, "dtype": "float16"}},
            "runtime.kv_cache.dtype: must be float32 or int8 on CPUExecutionProvider (got float16)",
        ),
    ],
)
def test_what_does_not_fit_the_board_is_refused(section: str, change: dict[str, object], words: str) -> None:
    data = valid()
    data[section] = {**data[section], **change}  # type: ignore[dict-item]
    with pytest.raises(ProfileError, match=words.replace("(", r"\(").replace(")", r"\)")):
        parse_profile(data, "board.yaml")


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("runtime", {"slots": 2}, "runtime.slots: must be 1, QNNExecutionProvider runs one request at a time (got 2)"),
        ("runtime", {"kv_cache": {"budget_mb": 1, "dtype": "int8"}}, "runtime.kv_cache.dtype: must be float32"),
        ("quantization", {"precision": "float32"}, "quantization.precision: must be int4 or int8"),
        ("execution", {"options": {}}, "execution.options: must have soc_model"),
    ],
)
def test_what_an_npu_cannot_do_is_refused(section: str, change: dict[str, object], words: str) -> None:
    data = find_profile("qualcomm-qcs6490").model_dump()
    data[section] |= change
    with pytest.raises(ProfileError, match=re.escape(words)):
        parse_profile(data, "board.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"execution": {"options": {}}}, "execution.options.device: must be CPU, GPU or NPU (got None)"),
        (
            {"execution": {"options": {"device": "AUTO"}}},
            "options.device: must be CPU, GPU or NPU (got AUTO)",
        ),
        ({"runtime": {"slots": 2}}, "runtime.slots: must be 1, OpenVINO (NPU) runs one request at a time (got 2)"),
        (
            {"runtime": {"kv_cache": {"dtype": "int8", "budget_mb": 1}}},
            "runtime.kv_cache.dtype: must be float16 on OpenVINO (NPU) (got int8)",
        ),
        (
            {"quantization": {"int4": {"algorithm": "gptq"}}},
            "quantization.int4.algorithm: must be rtn on OpenVINO (NPU) (got gptq)",
        ),
        (
            {"execution": {"provider": "CPUExecutionProvider"}},
            "runtime.kv_cache.dtype: must be float32 or int8 on CPUExecutionProvider (got float16)",
        ),
        (
            {"execution": {"options": {"device": "CPU"}}, "runtime": {"kv_cache": {"dtype": "int8", "budget_mb": 1}}},
            "runtime.kv_cache.dtype: must be float32 or float16 on OpenVINO (CPU) (got int8)",
        ),
    ],
)
def test_what_the_backend_does_not_have_is_refused(changes: dict[str, dict[str, object]], words: str) -> None:
    data = find_profile("intel-core-ultra-npu").model_dump()
    for section, change in changes.items():
        data[section] |= change
    with pytest.raises(ProfileError, match=re.escape(words)):
        parse_profile(data, "board.yaml")


@pytest.mark.parametrize(
    ("name", "provider", "one_row"),
    [
        ("generic-x86_64", "CPUExecutionProvider", False),
        ("openvino-x86_64", "OpenVINO (CPU)", False),
        ("intel-core-ultra-gpu", "OpenVINO (GPU)", True),
        ("intel-core-ultra-npu", "OpenVINO (NPU)", True),
    ],
)
def test_what_runs_a_model_has_a_name(name: str, provider: str, one_row: bool) -> None:
    """With the device, where there are several; and all but OpenVINO's CPU runs one request at a time."""
    execution = find_profile(name).execution
    assert (execution.name, execution.one_row) == (provider, one_row)


def test_the_digest_is_of_the_content_not_of_its_spelling(tmp_path: Path) -> None:
    """Another order and comments change nothing; another value does."""
    data = valid()
    path = tmp_path / "generic-x86_64.yaml"
    path.write_text("# mine\n" + yaml.safe_dump(dict(reversed(data.items()))))
    assert Profile.load(path).digest == find_profile("generic-x86_64").digest
    data["limits"] = {"temperature_c": 60.0}
    assert parse_profile(data, "x").digest != find_profile("generic-x86_64").digest


def test_an_unknown_name_lists_the_near_and_the_known() -> None:
    with pytest.raises(ProfileError, match=r"did you mean raspberry-pi-5\? known profiles: amd-ryzen-ai,"):
        find_profile("raspberry-pi5")


def test_a_file_that_is_not_yaml_or_is_named_otherwise_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("{")
    with pytest.raises(ProfileError, match="cannot be read"):
        find_profile(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(valid()))
    with pytest.raises(ProfileError, match="name: must be the file's name, 'b'"):
        find_profile(str(tmp_path / "b.yaml"))


def test_a_profile_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        find_profile("generic-x86_64").runtime.slots = 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1.0, 126.0, "60", None, True])
def test_a_limit_is_a_temperature(value: object) -> None:
    """A number that no chip can have, and what is no number, are refused."""
    with pytest.raises(ProfileError, match=r"limits\.temperature_c: must be"):
        parse_profile(valid() | {"limits": {"temperature_c": value}}, "board.yaml")


@pytest.mark.parametrize("content", [b"", b"- a\n", b"text", b"\xff", b"!!python/name:os.system", b"a: [1"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever is in it, the error is ours and names the file."""
    (tmp_path / "board.yaml").write_bytes(content)
    with pytest.raises(ProfileError, match=r"board\.yaml"):
        Profile.load(tmp_path / "board.yaml")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(Profile.model_fields)), JSON)
def test_any_value_is_a_profile_or_explained(key: str, value: object) -> None:
    """Whatever stands in a section gives a profile, or faults of that section."""
    try:
        faults = () if parse_profile(valid() | {key: value}, "board.yaml") else None
    except ProfileError as refusal:
        faults = refusal.faults or None
    assert faults is not None
    assert all(fault.path.startswith(key) or not fault.path for fault in faults)


def test_a_profile_survives_its_own_dump() -> None:
    """What `build.json` holds of a profile is that profile."""
    for name in builtin_profiles():
        profile = find_profile(name)
        assert parse_profile(profile.model_dump(mode="json"), name) == profile


def test_an_unknown_name_that_is_near_to_none_lists_the_known() -> None:
    """No guess is better than a bad one, and a name is never taken for a file."""
    with pytest.raises(ProfileError, match="no profile 'mainframe': known profiles: amd-ryzen-ai,"):
        find_profile("mainframe")
