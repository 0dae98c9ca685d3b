"""A worker (see worker.py) with onnxruntime-genai on the stock graph of a package: the same weights file as ours.

Its engine batches several requests only on graphs with a paged KV cache, which the stock graph has not. So each stream
has a generator of its own, and they take turns, a token each; a new one reads its whole prompt in its first turn.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnxruntime_genai as genai
from traffic import Arrival, Group, Served
from worker import own_stdout, work


class Genai:
    """One model; `threads` None leaves what it has by default."""

    def __init__(self, folder: Path, threads: int | None) -> None:
        config = genai.Config(str(folder))
        if threads is not None:
            session = {"intra_op_num_threads": threads}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        self._model = genai.Model(config)

    def serve(self, arrivals: Sequence[Arrival]) -> list[Served]:
        group = Group(arrivals)
        running: dict[int, genai.Generator] = {}
        while not group.done:
            running |= {number: self._generator(arrivals[number]) for number in group.due()}
            for number, generator in list(running.items()):
                if generator.token_count() == 0:
                    generator.append_tokens(np.array(arrivals[number].prompt, np.int32))
                generator.generate_next_token()
                generator.get_next_tokens()
                group.said(number)
                if group.ended(number):
                    del running[number]
        return group.served()

    def _generator(self, arrival: Arrival) -> genai.Generator:
        params = genai.GeneratorParams(self._model)
        length = len(arrival.prompt) + arrival.tokens
        params.set_search_options(do_sample=False, max_length=length, min_length=length)
        return genai.Generator(self._model, params)


def write_folder(package: Path, folder: Path) -> None:
    """What onnxruntime-genai loads: the only variant of the package with its configurations merged into one.

    The wheel cannot open a model package itself, nor does it know the key `component`.
    """
    [graph] = package.glob("models/decoder/*/model.onnx")
    config = _merged(
        json.loads((package / "configs" / "genai_config.json").read_text(encoding="utf-8")),
        json.loads(graph.with_name("genai_config_overlay.json").read_text(encoding="utf-8")),
    )
    config["model"]["decoder"].pop("component", None)
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    for file in (graph, graph.with_name("model.onnx.data")):
        os.link(file, folder / file.name)  # onnxruntime refuses weights that a symbolic link leads elsewhere


def _merged(base: dict[str, object], overlay: dict[str, object]) -> dict[str, object]:
    both = {
        key: _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
        for key, value in overlay.items()
    }
    return base | both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    pipe = own_stdout()
    with tempfile.TemporaryDirectory(dir=options.package.parent) as folder:
        write_folder(options.package, Path(folder))
        engine = Genai(Path(folder), options.threads)
        work(engine, pipe, versions={name: version(name) for name in ("onnxruntime-genai", "onnxruntime")})


if __name__ == "__main__":
    main()
