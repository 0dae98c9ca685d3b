"""The serving graph: ModelBuilder's decoder, rewired to the contract that `runtime.session` runs.

ModelBuilder's graph takes one attention mask for rows of one length and computes logits for every position. The
serving graph takes rows of different lengths, each with as many new tokens as it has, one behind the other, and
computes logits only where asked:

    input_ids              int64 [tokens]         new tokens of all rows, packed
    row_tokens             int64 [rows, width]    which of them are a row's, any where it has fewer than the widest
    token_places           int64 [tokens, 2]      the reverse: row and place in it of each token
    query_seqlens          int32 [rows]           new tokens of each row; 0 leaves it as it is
    seqlens_k              int32 [rows]           tokens in the cache after the step, minus one
    total_sequence_length  int32 []               the longest of them, not minus one
    logit_tokens           int64 [logits]         the tokens to compute logits for
    past/present           float32 or int8 [rows, kv_heads, capacity, head_dim], one shared buffer each
    logits                 float32 [logits, vocabulary]

Only attention needs to know rows. All else is computed for packed tokens: a chunk of a prompt and the next tokens of
other rows share one pass over the weights, and nothing is computed for padding, which attention skips.

CUDA's attention has no rows of different lengths (onnxruntime 1.31). There the graph is *rectangular*: `input_ids` is
`[rows, width]`, tokens are counted row by row, and there is no `row_tokens`, `token_places` or `query_seqlens`. With
nothing to gather, all of it can be captured in a CUDA graph.

Both graphs stay small and share one weights file, so nothing is stored twice and the stock graph stays usable.

The adapter graph is the serving graph with `+ x @ A @ B` behind projections, where A and B are inputs that may be left
out: without them they have rank 0, and add nothing, to the last bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper

from runtime.errors import BuildError
from runtime.package import PROJECTIONS
from runtime.sessions.adapters import LORA_A, LORA_B

from ..cache import whole

STOCK_GRAPH = "model.onnx"
SERVING_GRAPH = "serving.onnx"
INT8_KV_GRAPH = "serving-int8-kv.onnx"

_FUSED = {"qkv_proj": PROJECTIONS[:3]}
_PROJECTION_NODE = re.compile(r"/(model/layers\.\d+/(?:attn|mlp)/(\w+_proj))/(?:MatMulNBits|MatMul)")

# GroupQueryAttention's inputs, by position (com.microsoft, onnxruntime >= 1.32).
_PAST_KEY, _PAST_VALUE, _K_SCALE, _V_SCALE = 3, 4, 12, 13
_SEQLENS_K, _TOTAL_SEQUENCE_LENGTH, _QUERY_SEQLENS = 5, 6, 16


def make_serving_graph(
    model_dir: Path, kv_scales: Mapping[str, Sequence[float]] | None = None, *, packed: bool = True
) -> Path:
    """Writes a serving graph beside `model.onnx` in `model_dir`, over the same weights file; returns its path.

    Args:
        packed: whether tokens are; else the graph is rectangular.
        kv_scales: makes the KV cache int8: by cache input, the scale of each channel, `[kv_heads * head_dim]`.

    Raises BuildError if the graph is not a decoder as ModelBuilder writes them.
    """
    model = onnx.load(str(model_dir / STOCK_GRAPH), load_external_data=False)
    rewire(model.graph, packed=packed)
    if kv_scales is not None:
        _keep_kv_in_int8(model.graph, kv_scales)
    target = model_dir / (SERVING_GRAPH if kv_scales is None else INT8_KV_GRAPH)
    with whole(target) as unfinished:
        onnx.save(model, str(unfinished))
    return target


@dataclass(frozen=True)
class Site:
    """A product of the graph that adapters may change: one projection, or several whose outputs lie side by side.

    `name` is as in `model.layers.0.attn.qkv_proj`; sizes are of a row in and out.
    """

    name: str
    inputs: int
    outputs: int

    @property
    def projections(self) -> tuple[str, ...]:
        return _projections_of(self.name.rpartition(".")[2])


def make_adapter_graph(serving_graph: Path, targets: Sequence[str]) -> Path:
    """Writes, beside `serving_graph`, the graph that takes adapters of the projections `targets`; returns its path.

    Raises BuildError if the graph lacks one of them.
    """
    model = onnx.load(str(serving_graph), load_external_data=False)
    wanted, found = set(targets), set[str]()
    nodes: list[NodeProto] = []
    for node in list(model.graph.node):
        nodes.append(node)
        match = _PROJECTION_NODE.fullmatch(node.name)
        if match and wanted.intersection(_projections_of(match[2])):
            found.update(_projections_of(match[2]))
            nodes += _add_site(model.graph, node, match[1].replace("/", "."))
    if missing := wanted - found:
        raise BuildError(f"the graph has no projections {', '.join(sorted(missing))}; was it written by ModelBuilder?")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    target = serving_graph.with_name(f"{serving_graph.stem}-lora-{'-'.join(targets)}.onnx")
    with whole(target) as unfinished:
        onnx.save(model, str(unfinished))
    return target


def contrib_ops(graph: Path) -> list[str]:
    """The operators of ONNX Runtime's own that it needs, by name."""
    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    return sorted({node.op_type for node in nodes if node.domain == "com.microsoft"})


def adapter_sites(adapter_graph: Path) -> list[Site]:
    """Those of a graph that `make_adapter_graph` wrote."""
    graph = onnx.load(str(adapter_graph), load_external_data=False).graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.input}
    names = [name.removesuffix(LORA_A) for name in shapes if name.endswith(LORA_A)]
    return [Site(name, shapes[name + LORA_A][0], shapes[name + LORA_B][1]) for name in names]


def _projections_of(name: str) -> tuple[str, ...]:
    return _FUSED.get(name, (name,))


def _add_site(graph: GraphProto, product: NodeProto, name: str) -> Iterator[NodeProto]:
    """Nodes behind `product` that add an adapter's part to what it gives."""
    if product.op_type == "MatMulNBits":
        sizes = {attribute.name: attribute.i for attribute in product.attribute}
        inputs, outputs = sizes["K"], sizes["N"]
    else:
        inputs, outputs = next(weight for weight in graph.initializer if weight.name == product.input[1]).dims
    for part, shape, empty in (
        (name + LORA_A, [inputs, f"{name}.rank"], [inputs, 0]),
        (name + LORA_B, [f"{name}.rank", outputs], [0, outputs]),
    ):
        graph.input.append(helper.make_tensor_value_info(part, TensorProto.FLOAT, shape))
        graph.initializer.append(helper.make_tensor(part, TensorProto.FLOAT, empty, []))
    result, alone = product.output[0], f"{name}.alone"
    product.output[0] = alone
    yield helper.make_node("MatMul", [product.input[0], name + LORA_A], [f"{name}.down"], name=f"/{name}/lora_A")
    yield helper.make_node("MatMul", [f"{name}.down", name + LORA_B], [f"{name}.up"], name=f"/{name}/lora_B")
    yield helper.make_node("Add", [alone, f"{name}.up"], [result], name=f"/{name}/lora_Add")


def rewire(graph: GraphProto, *, packed: bool) -> None:
    """Changes `graph` in place to the serving contract."""
    _take_lengths_instead_of_a_mask(graph)
    if packed:
        _take_rows_of_different_lengths(graph)
        _pack_tokens(graph)
    else:
        _name_shape(_value(graph.input, "input_ids"), "rows", "width")
    _share_the_kv_cache(graph)
    _pick_logits(graph, packed=packed)
    _drop_unused(graph)
    del graph.value_info[:]  # the shapes noted there are those of the old contract


def _take_lengths_instead_of_a_mask(graph: GraphProto) -> None:
    for node in _attention(graph):
        node.input[_SEQLENS_K] = "seqlens_k"
        node.input[_TOTAL_SEQUENCE_LENGTH] = "total_sequence_length"
    graph.input.remove(_value(graph.input, "attention_mask"))
    graph.input.extend(
        [
            helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["rows"]),
            helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, []),
        ]
    )


def _take_rows_of_different_lengths(graph: GraphProto) -> None:
    for node in _attention(graph):
        node.input.extend([""] * (_QUERY_SEQLENS + 1 - len(node.input)))
        node.input[_QUERY_SEQLENS] = "query_seqlens"
    graph.input.append(helper.make_tensor_value_info("query_seqlens", TensorProto.INT32, ["rows"]))


def _attention(graph: GraphProto) -> list[NodeProto]:
    nodes = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    if not nodes:
        raise BuildError("the graph has no GroupQueryAttention; was it written by ModelBuilder for a CPU?")
    return nodes


def _pack_tokens(graph: GraphProto) -> None:
    """Lets all but attention see packed tokens: they are put into rows before it, and taken out of them behind it."""
    graph.input.remove(_value(graph.input, "input_ids"))
    graph.input.extend(
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["tokens"]),
            helper.make_tensor_value_info("row_tokens", TensorProto.INT64, ["rows", "width"]),
            helper.make_tensor_value_info("token_places", TensorProto.INT64, ["tokens", 2]),
        ]
    )
    producers = {output: node for node in graph.node for output in node.output}
    behind: dict[str, list[NodeProto]] = {}
    for attention in _attention(graph):
        for packed in {_projected(value, producers) for value in attention.input[:_PAST_KEY] if value}:
            for reader in graph.node:
                for at, value in enumerate(reader.input):
                    if value == packed:
                        reader.input[at] = f"{packed}.rows"
            into_rows = helper.make_node("Gather", [packed, "row_tokens"], [f"{packed}.rows"], name=f"{packed}.Gather")
            behind.setdefault(producers[packed].name, []).append(into_rows)
        result = attention.output[0]
        attention.output[0] = f"{result}.rows"
        out_of_rows = helper.make_node(
            "GatherND", [f"{result}.rows", "token_places"], [result], name=f"{result}.GatherND"
        )
        behind[attention.name] = [out_of_rows]
    nodes = [each for node in graph.node for each in (node, *behind.get(node.name, ()))]
    del graph.node[:]
    graph.node.extend(nodes)


def _projected(value: str, producers: Mapping[str, NodeProto]) -> str:
    """The projection that queries, keys or values come from, before they are split and normed by head."""
    while (node := producers[value]).op_type in ("Split", "Reshape", "SimplifiedLayerNormalization"):
        value = node.input[0]
    return value


def _share_the_kv_cache(graph: GraphProto) -> None:
    for value in _caches(graph):
        _name_shape(value, "rows", None, "capacity")


def _name_shape(value: onnx.ValueInfoProto, *names: str | None) -> None:
    for dim, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
        if name is not None:
            dim.dim_param = name


def _keep_kv_in_int8(graph: GraphProto, scales: Mapping[str, Sequence[float]]) -> None:
    for name, values in scales.items():
        graph.initializer.append(helper.make_tensor(f"{name}.scale", TensorProto.FLOAT, [len(values)], values))
    for node in graph.node:
        if node.op_type == "GroupQueryAttention":
            node.input.extend([""] * (_V_SCALE + 1 - len(node.input)))
            for scale, cache in ((_K_SCALE, _PAST_KEY), (_V_SCALE, _PAST_VALUE)):
                node.input[scale] = f"{node.input[cache]}.scale"
            for attribute in ("k_quant_type", "v_quant_type"):
                node.attribute.append(helper.make_attribute(attribute, "PER_CHANNEL"))
            node.attribute.append(helper.make_attribute("kv_cache_bit_width", 8))
    for value in _caches(graph):
        value.type.tensor_type.elem_type = TensorProto.INT8


def _caches(graph: GraphProto) -> list[onnx.ValueInfoProto]:
    """Inputs and outputs that hold keys and values."""
    return [v for v in (*graph.input, *graph.output) if v.name.startswith(("past_key_values.", "present."))]


def _pick_logits(graph: GraphProto, *, packed: bool) -> None:
    """Puts a gather of `logit_tokens` between the final norm and the head, and float32 behind it."""
    graph.input.append(helper.make_tensor_value_info("logit_tokens", TensorProto.INT64, ["logits"]))
    head = _head(graph)
    logits = _value(graph.output, "logits")
    vocabulary = logits.type.tensor_type.shape.dim[2].dim_value
    narrow = logits.type.tensor_type.elem_type != TensorProto.FLOAT
    norm = next((n for n in graph.node if "final_norm" in n.name), None)
    if norm is None:
        raise BuildError("the graph has no final norm; was it written by ModelBuilder?")
    hidden, before = norm.output[0], []
    if not packed:
        weight = next(w for w in graph.initializer if w.name == norm.input[2 if "Skip" in norm.op_type else 1])
        graph.initializer.append(helper.make_tensor("serving.row", TensorProto.INT64, [2], [-1, weight.dims[0]]))
        before.append(helper.make_node("Reshape", [hidden, "serving.row"], ["serving.hidden"], name="/serving/Reshape"))
        hidden = "serving.hidden"
    before.append(helper.make_node("Gather", [hidden, "logit_tokens"], ["serving.picked"], name="/serving/Gather"))
    head.input[0] = "serving.picked"
    head.output[0] = "serving.logits" if narrow else "logits"
    others = [n for n in graph.node if n is not head and "logits" in n.output]
    for node in others:  # a reshape back to three dimensions behind an unquantized tied head
        graph.node.remove(node)
    for at, node in enumerate(before, list(graph.node).index(head)):
        graph.node.insert(at, node)
    if narrow:
        graph.node.append(
            helper.make_node("Cast", ["serving.logits"], ["logits"], name="/serving/Cast", to=TensorProto.FLOAT)
        )
    logits.CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["logits", vocabulary]))


def _head(graph: GraphProto) -> NodeProto:
    for node in graph.node:
        if node.name.startswith("/lm_head") and node.op_type in ("MatMulNBits", "Gemm", "MatMul"):
            return node
    raise BuildError("the graph has no language model head; was it written by ModelBuilder?")


def _drop_unused(graph: GraphProto) -> None:
    """Removes nodes, from the end to the start, that nothing reads any more."""
    read = {value.name for value in graph.output}
    keep: list[NodeProto] = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            keep.append(node)
            read.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(keep))


def _value(values: object, name: str) -> onnx.ValueInfoProto:
    for value in values:  # type: ignore[attr-defined]
        if value.name == name:
            return value
    raise BuildError(f"the graph has no {name!r}; was it written by ModelBuilder?")
