"""The key of what a package is made from changes with each of its inputs, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unit.toolchain.matrix.scripted_cluster import job

from runtime.package import Geometry, SamplingDefaults
from runtime.presets import Preset
from runtime.profile import find_profile
from toolchain.build import Found
from toolchain.checkpoints.adapters import PeftAdapter
from toolchain.checkpoints.sources import Checkpoint
from toolchain.matrix.inputs import inputs_key
from toolchain.matrix.plan import Job

TOOLS = {"torch": "2.13.0"}
CHECKPOINT = Checkpoint(
    folder=Path("/models/tiny"),
    name="tiny",
    kind="folder",
    id="tiny",
    revision=None,
    digest="0" * 64,
    geometry=Geometry(
        architecture="Qwen2ForCausalLM",
        layers=1,
        kv_heads=1,
        head_dim=8,
        hidden_size=8,
        vocab_size=8,
        context_tokens=8,
        eos_token_ids=[0],
        bos_token_id=None,
    ),
    row_divisor=8,
    only_optimum=None,
    sampling=SamplingDefaults(),
)
PAIR = np.zeros((1, 8), np.float32), np.zeros((8, 1), np.float32)
FOUND = Found(CHECKPOINT, {"pumps": PeftAdapter(Path("/adapters/pumps"), "1" * 64, 8.0, {(0, "q_proj"): PAIR})})

CHANGES: dict[str, Callable[[Job, Found, Path], tuple[Job, Found]]] = {
    "weights": lambda job, found, text: (job, replace(found, checkpoint=replace(CHECKPOINT, digest="2" * 64))),
    "commit": lambda job, found, text: (job, replace(found, checkpoint=replace(CHECKPOINT, revision="main"))),
    "precision": lambda job, found, text: (replace(job, precision="int8"), found),
    "profile": lambda job, found, text: (replace(job, profiles=(find_profile("raspberry-pi-5"),)), found),
    "version": lambda job, found, text: (replace(job, version="1.0.1"), found),
    "presets": lambda job, found, text: (replace(job, presets={"a": Preset(description="a", system="b")}), found),
    "calibration": lambda job, found, text: (replace(job, calibration=text), found),
    "adapter": lambda job, found, text: (
        job,
        replace(found, peft={"pumps": replace(found.peft["pumps"], digest="3" * 64)}),
    ),
    "adapter's name": lambda job, found, text: (job, replace(found, peft={"valves": found.peft["pumps"]})),
    "targets": lambda job, found, text: (replace(job, adapter_targets=("q_proj",)), found),
    "exporter": lambda job, found, text: (replace(job, exporter="optimum"), found),
    "fidelity": lambda job, found, text: (replace(job, allow_low_fidelity=True), found),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_input_counts(change: Callable[[Job, Found, Path], tuple[Job, Found]], tmp_path: Path) -> None:
    text = tmp_path / "texts.jsonl"
    text.write_text("{}")
    assert inputs_key(*change(job("tiny"), FOUND, text), TOOLS) != inputs_key(job("tiny"), FOUND, TOOLS)


def test_what_text_says_counts_and_where_it_is_does_not(tmp_path: Path) -> None:
    """Nor does it for a checkpoint. Versions of tools do."""
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    here.write_text("one")
    there.write_text("one")
    moved = replace(FOUND, checkpoint=replace(CHECKPOINT, folder=tmp_path))
    first = inputs_key(replace(job("tiny"), calibration=here), FOUND, TOOLS)
    assert first == inputs_key(replace(job("tiny"), calibration=there, source="/elsewhere"), moved, TOOLS)
    there.write_text("two")
    assert first != inputs_key(replace(job("tiny"), calibration=there), FOUND, TOOLS)
    assert first != inputs_key(replace(job("tiny"), calibration=here), FOUND, {"torch": "2.14.0"})
