"""Builds of what cannot be built: a line with the reason, its exit status, nothing half written, a good one after."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from gguf import GGUFWriter
from integration.hub import Hub, serve
from integration.refusals import Place, refused, run
from lora import train_adapter
from safetensors.torch import load_file, save_file
from tiny import change_config, make_tiny

from runtime.package import Package
from runtime.profile import find_profile

pytestmark = pytest.mark.slow

CPU = ("--profile", "generic-x86_64")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("good") / "tiny", "qwen2")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "cache", tmp_path / "out")


@pytest.fixture
def tiny(good: Path, tmp_path: Path) -> Path:
    """A checkpoint of the test's own, to break."""
    return Path(shutil.copytree(good, tmp_path / "tiny"))


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lose_a_shard(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    shards = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(names)}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def break_a_number(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def take_another_configuration(folder: Path) -> None:
    change_config(folder, vocab_size=640)


def say_more_layers(folder: Path) -> None:
    change_config(folder, num_hidden_layers=3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_weights, "model.safetensors is damaged or cut short ("),
        (lose_a_shard, "lacks model-00002-of-00002.safetensors, which model.safetensors.index.json names: copy or"),
        (break_a_number, "has values that are no numbers in model.layers.1.mlp.up_proj.weight: the checkpoint is"),
        (
            take_another_configuration,
            "is of another model than config.json: model.embed_tokens.weight is 512 x 64, not 640",
        ),
        (say_more_layers, "lacks the weights model.layers.2.self_attn.q_proj.weight: copy or download it again"),
    ],
)
def test_damaged_weights_are_refused(tiny: Path, place: Place, damage: Callable[[Path], None], words: str) -> None:
    """Before Olive starts, with the file or folder, and what is wrong with it."""
    damage(tiny)
    status, said = refused(place, place.build(tiny, *CPU))
    assert status == 7
    assert said.startswith(str(tiny))
    assert words in said


def test_a_gguf_of_another_architecture_is_refused(tmp_path: Path, place: Place) -> None:
    """By name, and with what would do."""
    file = tmp_path / "model.gguf"
    writer = GGUFWriter(file, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    status, said = refused(place, place.build(file, *CPU))
    assert (status, said) == (7, "model.gguf is of architecture llama; edgeqwen compiles qwen2 and qwen3")


def test_an_adapter_for_another_base_is_refused(good: Path, tmp_path: Path, place: Place) -> None:
    """Beside the model and into its weights."""
    other = make_tiny(tmp_path / "other", "qwen2", hidden_size=32)
    adapter = train_adapter(other, tmp_path / "adapter", [5, 6, 7], targets=["q_proj"])
    status, said = refused(place, place.build(good, *CPU, "--adapter", f"pumps={adapter}"))
    assert (status, "was trained on another model: q_proj of layer 0 is 32 to 32" in said) == (4, True)
    status, said = refused(place, place.build(good, *CPU, "--merge-adapter", str(adapter)))
    assert (status, f"cannot be merged into {good.name}: " in said) == (4, True)


def own_profile(folder: Path, **runtime: object) -> Path:
    data = find_profile("generic-x86_64").model_dump()
    data |= {"name": "my-board"}
    data["runtime"] |= runtime
    file = folder / "my-board.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def test_what_a_profile_asks_and_no_build_can_do_is_refused(good: Path, tmp_path: Path, place: Place) -> None:
    """Blocks where none divides the rows of weights, and a context over the checkpoint's in a profile of one's own."""
    odd = make_tiny(tmp_path / "odd", "qwen2", intermediate_size=120)
    status, said = refused(place, place.build(odd, *CPU))
    assert status == 3
    assert said.startswith(
        "block_size: no block of 16 to 64 weights divides this model's rows, which are multiples of 8"
    )
    profile = own_profile(tmp_path, context_tokens=1025)
    status, said = refused(place, place.build(good, "--profile", str(profile)))
    assert (status, said) == (
        3,
        "my-board: runtime.context_tokens: must be <= 1024, the longest context of the checkpoint (got 1025)",
    )


@pytest.fixture
def hub(good: Path) -> Iterator[Hub]:
    with serve(Hub({"Qwen/Tiny": good})) as hub:
        yield hub


def test_what_the_hub_refuses_is_said_and_can_be_tried_again(hub: Hub, tmp_path: Path, place: Place) -> None:
    """Missing, of no such revision, gated and cut off: a line each; once the hub has it all, a package."""
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}

    def refusal(source: str, *more: str) -> tuple[int, str]:
        return refused(place, place.build(source, *CPU, *more), env=environment)

    assert refusal("Qwen/Missing") == (7, "the hub has no model Qwen/Missing: check its spelling")
    assert refusal("Qwen/Tiny", "--revision", "v9") == (7, "Qwen/Tiny has no revision 'v9'")
    hub.access = "gated"
    assert refusal("Qwen/Tiny") == (7, "Qwen/Tiny is gated: accept its terms on the hub, then `hf auth login`")
    hub.access = "cut"
    status, said = refusal("Qwen/Tiny")
    assert (status, said.startswith("Qwen/Tiny is not in the local hub cache and the hub ")) == (7, True)
    hub.access = "open"
    status, stderr = run(place.build("Qwen/Tiny", *CPU, precision="float32"), env=environment)
    assert status == 0, stderr
    [package] = place.out.iterdir()
    assert Package.open(package).build.source.kind == "hub"
