"""How large the weights file of a checkpoint becomes, from its shapes and a profile's recipe alone. Pure.

Of ONNX Runtime's packages every tensor is counted as `MatMulNBits` has it (bits * N * K / 8, a scale a block, packed
zero points where the blocks are not symmetric), and what comes out is the file's size, up to which layers the
measurement of `fisher_mixed_precision` will choose: there it is the most they can take. For the others it is an
estimate from what their recipes say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runtime.errors import SourceError
from runtime.profile import Int4, Int8, Profile

from ..recipes.recipe import Precision, fitting

_OUTSIDE_BYTES = 1024
"""Smaller tensors stay in the graph, not in the weights file (onnx.external_data_helper)."""

_QNN_HEAD_BLOCK = 32  # toolchain.recipes.qnn


@dataclass(frozen=True)
class Shape:
    """The numbers of a checkpoint's config.json that decide how large it is.

    Args:
        context_tokens: the longest context that it was trained for.
        tied: whether head and embedding are one matrix.
    """

    architecture: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_tokens: int
    tied: bool

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The products of one layer, queries, keys and values as the one that the graph has of them."""
        attention = self.heads * self.head_dim
        return (
            Linear("qkv", attention + 2 * self.kv_heads * self.head_dim, self.hidden),
            Linear("o", self.hidden, attention),
            Linear("gate", self.intermediate, self.hidden),
            Linear("up", self.intermediate, self.hidden),
            Linear("down", self.hidden, self.intermediate),
        )

    @property
    def row_divisor(self) -> int:
        """What divides the length of every row of weights."""
        return math.gcd(*(linear.columns for linear in self.linears))

    @property
    def layer_weights(self) -> int:
        """Of all layers' products."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def parameters(self) -> int:
        """All weights; norms and biases, a thousandth of them, left out."""
        return self.layer_weights + self.vocab * self.hidden * (1 if self.tied else 2)

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Of keys and values of all layers, each number in `itemsize` bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * itemsize


@dataclass(frozen=True)
class Linear:
    """A matrix of weights `[rows, columns]`, rounded along its columns."""

    name: str
    rows: int
    columns: int

    @property
    def weights(self) -> int:
        return self.rows * self.columns


def shape_of(config: Mapping[str, object], subject: str) -> Shape:
    """What config.json says. Raises SourceError, naming `subject`, if a number is missing."""

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int):
            raise SourceError(f"{subject}: {key} must be a whole number (got {value!r})")
        return value

    architectures = config.get("architectures")
    hidden, heads = number("hidden_size"), number("num_attention_heads")
    return Shape(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        hidden=hidden,
        intermediate=number("intermediate_size"),
        layers=number("num_hidden_layers"),
        heads=heads,
        kv_heads=number("num_key_value_heads"),
        head_dim=number("head_dim", hidden // heads),
        vocab=number("vocab_size"),
        context_tokens=number("max_position_embeddings"),
        tied=bool(config.get("tie_word_embeddings")),
    )


def weights_bytes(shape: Shape, profile: Profile, precision: Precision) -> int:
    """The size of the weights file; with `mixed_precision: fisher`, the largest that it can become."""
    backend = profile.execution.backend
    if backend == "qnn":
        return _for_qnn(shape, precision)
    if backend == "openvino":
        return _for_openvino(shape, profile, precision)
    itemsize = 2 if backend == "cuda" else 4
    quantization = profile.quantization
    if precision == "int4":
        body = _int4(shape, quantization.int4, itemsize)
    elif precision == "int8":
        body = _int8(shape, quantization.int8, itemsize)
    else:
        body = sum(_stored(each.weights * itemsize) for each in (*_all_linears(shape), *_ends(shape)))
    tables = 2 * shape.context_tokens * (shape.head_dim // 2) * itemsize if backend == "cuda" else 0
    return body + tables + _norms_and_biases(shape, itemsize)


def share_that_fits(shape: Shape, profile: Profile, limit_bytes: int) -> float | None:
    """The largest share of layer weights that may keep 8 bits in an INT4 weights file of `limit_bytes`, in thousandths.

    None if not even a file without any fits. The profile's `mixed_precision` must be fisher.
    """
    none, all_of_them = (weights_bytes(shape, with_int4(profile, high_share=share), "int4") for share in (0.0, 1.0))
    if none > limit_bytes:
        return None
    return min(1000 * (limit_bytes - none) // max(all_of_them - none, 1), 1000) / 1000


def with_int4(profile: Profile, **knobs: object) -> Profile:
    """The profile with other knobs of its INT4 recipe."""
    int4 = Int4.model_validate(profile.quantization.int4.model_dump() | knobs)
    return profile.model_copy(update={"quantization": profile.quantization.model_copy(update={"int4": int4})})


def _int8(shape: Shape, knobs: Int8, itemsize: int) -> int:
    block, head_block = (fitting(size, shape.row_divisor) for size in (knobs.block_size, knobs.head_block_size))
    zeros = not knobs.symmetric
    layers = sum(_rounded(each, 8, block, zeros, itemsize) for each in _all_linears(shape))
    return layers + sum(_rounded(each, 8, head_block, zeros, itemsize) for each in _ends(shape))


def _int4(shape: Shape, knobs: Int4, itemsize: int) -> int:
    block, head_block = (fitting(size, shape.row_divisor) for size in (knobs.block_size, knobs.head_block_size))
    zeros = not knobs.symmetric
    head_zeros = zeros and knobs.head_bits != 8
    head = sum(_rounded(each, knobs.head_bits, head_block, head_zeros, itemsize) for each in _ends(shape))
    low = {each: _rounded(each, 4, block, zeros, itemsize) for each in shape.linears}
    if not knobs.mixed_precision.startswith("k_quant"):
        dearer = max((_rounded(each, 8, block, False, itemsize) - low[each]) / each.weights for each in shape.linears)
        return head + shape.layers * sum(low.values()) + int(knobs.high_share * shape.layer_weights * dearer)
    high = _at_8_bits(knobs, shape.layers)
    names = {"k_quant_down": {"down"}, "k_quant_mixed": {"down", "qkv"}}.get(knobs.mixed_precision, set())
    more = sum(_rounded(each, 8, block, zeros, itemsize) - low[each] for each in shape.linears if each.name in names)
    return head + shape.layers * sum(low.values()) + high * more


def _at_8_bits(knobs: Int4, layers: int) -> int:
    """In how many layers Olive's SelectiveMixedPrecision (0.13) leaves some products at 8 bits."""
    if knobs.mixed_precision == "k_quant_last":
        return 0
    return sum(at < layers / 8 or at >= 7 * layers / 8 or (at - layers // 8) % 3 == 2 for at in range(layers))


def _for_qnn(shape: Shape, precision: Precision) -> int:
    """A scale a row; the decoder twice, for one token and for a window, and embedding and head apart, at 8 bits."""
    bits = 4 if precision == "int4" else 8
    decoder = sum(each.weights * bits // 8 + 4 * each.rows for each in _all_linears(shape))
    head = Linear("head", shape.vocab, shape.hidden)
    return 2 * decoder + 2 * _rounded(head, 8, _QNN_HEAD_BLOCK, False, 4)


def _for_openvino(shape: Shape, profile: Profile, precision: Precision) -> int:
    """NNCF's: float16 scales, a scale a row at INT8, embedding and head at 8 bits at INT4 too."""
    knobs = profile.quantization
    ends = sum(_rounded(each, 8, each.columns, False, 2) for each in _ends(shape))
    if precision == "int4":
        block, zeros = fitting(knobs.int4.block_size, shape.row_divisor), not knobs.int4.symmetric
        return ends + sum(_rounded(each, 4, block, zeros, 2) for each in _all_linears(shape))
    if precision == "int8":
        return ends + sum(_rounded(each, 8, each.columns, False, 2) for each in _all_linears(shape))
    return 4 * shape.parameters


def _all_linears(shape: Shape) -> Iterator[Linear]:
    for _ in range(shape.layers):
        yield from shape.linears


def _ends(shape: Shape) -> tuple[Linear, ...]:
    """Embedding and head, once where they are tied."""
    return (Linear("head", shape.vocab, shape.hidden),) * (1 if shape.tied else 2)


def _rounded(linear: Linear, bits: int, block: int, zero_points: bool, scale_bytes: int) -> int:
    blocks = -(-linear.columns // block)
    tensors = [
        linear.weights * bits // 8,
        linear.rows * blocks * scale_bytes,
        linear.rows * -(-blocks * bits // 8) if zero_points else 0,
    ]
    return sum(map(_stored, tensors))


def _norms_and_biases(shape: Shape, itemsize: int) -> int:
    """Norms before attention, before the MLP and at the end; of Qwen2 the biases of qkv, of Qwen3 two norms a layer."""
    norms = (2 * shape.layers + 1) * _stored(shape.hidden * itemsize)
    if shape.architecture.startswith("Qwen3"):
        return norms + 2 * shape.layers * _stored(shape.head_dim * itemsize)
    return norms + shape.layers * _stored(shape.linears[0].rows * itemsize)


def _stored(size: int) -> int:
    return size if size >= _OUTSIDE_BYTES else 0
