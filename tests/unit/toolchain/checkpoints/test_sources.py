"""Sources: what can be compiled is described, and whatever cannot is refused with the reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from tiny import HIDDEN, VOCABULARY, change_config, make_tiny

from runtime.errors import SourceError, UnsupportedArchitecture
from runtime.package import SamplingDefaults
from toolchain.checkpoints.sources import Checkpoint, package_name, resolve


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("made") / "tiny", "qwen2")


@pytest.fixture
def tiny(made: Path, tmp_path: Path) -> Path:
    """A checkpoint of the test's own, to break."""
    return Path(shutil.copytree(made, tmp_path / "My Tune_v2"))


def read(source: Path | str, cache: Path | None = None) -> Checkpoint:
    return resolve(str(source), revision=None, cache=cache or Path("unused"))


def refusal(source: Path | str, kind: type[SourceError] = SourceError) -> str:
    with pytest.raises(SourceError) as error:
        read(source)
    assert type(error.value) is kind
    assert error.value.exit_code == 7
    return str(error.value)


@pytest.mark.parametrize(("architecture", "head_dim"), [("qwen2", 16), ("qwen3", 32)])
def test_a_folder_is_described_by_its_configuration(tmp_path: Path, architecture: str, head_dim: int) -> None:
    """Shape, ends of text and origin are those of the checkpoint; a head's size is config.json's own if it has one."""
    checkpoint = read(make_tiny(tmp_path / "t", architecture))  # type: ignore[arg-type]
    shape = checkpoint.geometry
    assert shape.architecture == f"{architecture.capitalize()}ForCausalLM"
    assert (shape.layers, shape.kv_heads, shape.head_dim) == (2, 2, head_dim)
    assert (shape.hidden_size, shape.vocab_size, shape.context_tokens) == (HIDDEN, VOCABULARY, 1024)
    assert (shape.eos_token_ids, shape.bos_token_id) == ([2], 1)
    assert (checkpoint.kind, checkpoint.id, checkpoint.revision) == ("folder", "t", None)


def test_a_package_is_named_for_its_folder(tiny: Path) -> None:
    """The name is the folder's in lower case, with dashes for what a file name should not hold."""
    assert read(tiny).name == "my-tune-v2"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b-instruct"),
        ("a b_c", "a-b-c"),
        ("..hidden-", "hidden"),
        ("__", "model"),
        ("Café", "caf"),
    ],
)
def test_any_name_becomes_a_file_name(name: str, expected: str) -> None:
    """No name is empty, starts with a dot, or holds a space."""
    assert package_name(name) == expected


def test_the_digest_is_of_names_and_contents(tiny: Path, tmp_path: Path) -> None:
    """A copy elsewhere has the same digest; a changed weight, setting or tokenizer has another; a README counts not."""
    first = read(tiny).digest
    copy = Path(shutil.copytree(tiny, tmp_path / "elsewhere"))
    (copy / "README.md").write_text("hello")
    assert read(copy).digest == first
    digests = {first}
    for file in ("config.json", "tokenizer.json"):
        (copy / file).write_bytes((copy / file).read_bytes() + b" ")
        digests.add(read(copy).digest)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-4] ^= 1  # the lowest bit of the last number
    (copy / "model.safetensors").write_bytes(weights)
    digests.add(read(copy).digest)
    assert len(digests) == 4


def test_sampling_is_what_the_checkpoint_recommends(tiny: Path) -> None:
    """With do_sample the file's values and their neutral defaults; without it, greedy."""
    file = tiny / "generation_config.json"
    file.write_text(json.dumps({"do_sample": True, "temperature": 0.7, "top_k": 20, "eos_token_id": [2, 0]}))
    checkpoint = read(tiny)
    assert checkpoint.sampling == SamplingDefaults(temperature=0.7, top_k=20)
    assert checkpoint.geometry.eos_token_ids == [2, 0]
    file.write_text(json.dumps({"temperature": 0.7}))
    assert read(tiny).sampling == SamplingDefaults(temperature=0.0)
    file.unlink()
    assert read(tiny).sampling == SamplingDefaults(temperature=0.0)


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "~/nowhere", "nowhere", "a/b/c"])
def test_a_missing_folder_is_refused(source: str) -> None:
    """What cannot be a hub id is never asked of the hub."""
    assert refusal(source) == f"there is no folder or file {source}; a hub id looks like Qwen/Qwen2.5-0.5B-Instruct"


@pytest.mark.parametrize("source", ["models/", "Qwen/Qwen 2.5", "a--b/c"])
def test_a_malformed_hub_id_is_refused(source: str) -> None:
    """One slash does not make a hub id: a folder that was misspelt is an error in words."""
    assert refusal(source).startswith(f"there is no folder {source}, and it is not a hub id: ")


def test_a_hub_id_without_the_hub_is_refused() -> None:
    """Offline, a model that is not in the cache is named, with the way out."""
    assert refusal("edgeqwen-tests/not-there") == (
        "edgeqwen-tests/not-there is not in the local hub cache and the hub cannot be reached:"
        " give a local folder instead"
    )


def test_a_folder_without_config_is_refused(tiny: Path) -> None:
    """A folder without config.json is no checkpoint."""
    (tiny / "config.json").unlink()
    assert refusal(tiny) == f"{tiny} has no config.json: is it a Hugging Face checkpoint?"


@pytest.mark.parametrize(("content", "words"), [("{", "cannot be read"), ("[]", "is not a JSON object")])
def test_a_broken_config_is_refused(tiny: Path, content: str, words: str) -> None:
    """The file is named, not only the error in it."""
    (tiny / "config.json").write_text(content)
    assert refusal(tiny).startswith(f"{tiny / 'config.json'} {words}")


def test_a_config_without_a_number_is_refused(tiny: Path) -> None:
    """The key is named, with what stood there."""
    change_config(tiny, num_hidden_layers="two")
    assert refusal(tiny) == "config.json: num_hidden_layers must be a whole number above 0 (got 'two')"


def test_a_folder_without_tokenizer_is_refused(tiny: Path) -> None:
    """The device needs the fast tokenizer's one file."""
    (tiny / "tokenizer.json").unlink()
    assert refusal(tiny) == f"{tiny} has no tokenizer.json: save its fast tokenizer beside the weights"


def test_a_folder_without_weights_is_refused(tiny: Path) -> None:
    """Weights must be safetensors; pickled ones are not read, and that is said."""
    (tiny / "model.safetensors").unlink()
    assert refusal(tiny) == f"{tiny} has no *.safetensors weights"
    (tiny / "pytorch_model.bin").touch()
    assert refusal(tiny).endswith("weights (only .bin files: save it as safetensors first)")


@pytest.mark.parametrize(
    ("architectures", "named"), [(["LlamaForCausalLM"], "LlamaForCausalLM"), ([], "none"), (None, "none")]
)
def test_another_architecture_is_refused_by_name(tiny: Path, architectures: object, named: str) -> None:
    """The error says what it is and what would do."""
    change_config(tiny, architectures=architectures)
    assert refusal(tiny, UnsupportedArchitecture) == (
        f"{tiny.name} is of architecture {named}; edgeqwen compiles Qwen2ForCausalLM and Qwen3ForCausalLM, and"
        " Qwen3MoeForCausalLM with --exporter optimum"
    )


def test_a_quantized_checkpoint_is_refused(tiny: Path) -> None:
    """Quantizing twice would lose twice."""
    change_config(tiny, quantization_config={"quant_method": "gptq", "bits": 4})
    assert refusal(tiny) == f"{tiny.name} is quantized already: start from the original float checkpoint"


def test_what_only_optimum_exports_is_known(tiny: Path) -> None:
    """The serving graph attends to everything; a model that does not would answer differently. It has no experts."""
    assert read(tiny).only_optimum is None
    change_config(tiny, use_sliding_window=True)
    assert read(tiny).only_optimum == "uses sliding-window attention"
    change_config(tiny, architectures=["Qwen3MoeForCausalLM"])
    assert read(tiny).only_optimum == "is of architecture Qwen3MoeForCausalLM"


@pytest.mark.parametrize(
    ("changed", "divisor"), [({}, 64), ({"intermediate_size": 120}, 8), ({"head_dim": 12}, 16), ({"head_dim": 5}, 4)]
)
def test_what_divides_all_rows_of_weights_is_known(tmp_path: Path, changed: dict[str, int], divisor: int) -> None:
    """Those of the residual stream, of all heads together, and inside an MLP."""
    assert read(make_tiny(tmp_path / "t", "qwen2", **changed)).row_divisor == divisor


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    """The first bytes decide, whatever the file is called, and a missing file is missing."""
    for name in ("model.gguf", "model.bin"):
        (tmp_path / name).write_bytes(b"GGML and more")
        assert refusal(tmp_path / name) == f"{tmp_path / name} is not a GGUF file"
    assert refusal(tmp_path / "other.gguf") == f"there is no file {tmp_path / 'other.gguf'}"


def write_gguf(path: Path, architecture: str) -> None:
    """With one tensor of 128 bytes at its end."""
    writer = GGUFWriter(path, architecture)
    writer.add_tensor("output_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_damaged_gguf_is_refused(tmp_path: Path) -> None:
    """A download that stopped, at whatever byte, is an error in words before anything is converted."""
    file = tmp_path / "model.gguf"
    write_gguf(file, "qwen2")
    whole = file.read_bytes()
    assert whole.endswith(np.ones(32, np.float32).tobytes())
    for size in range(4, len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(SourceError):  # of another architecture, if it stopped within that name
            read(file, tmp_path)
    assert refusal(file).startswith(f"{file} is damaged or cut short: ")
    file.write_bytes(b"GGUF" + b"\0" * 100)
    assert refusal(file).startswith(f"{file} is damaged or cut short: ")


def test_a_gguf_of_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    """Before anything is converted."""
    write_gguf(tmp_path / "model.gguf", "llama")
    words = "model.gguf is of architecture llama; edgeqwen compiles qwen2 and qwen3"
    assert refusal(tmp_path / "model.gguf", UnsupportedArchitecture) == words
