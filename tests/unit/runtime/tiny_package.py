"""Packages with the layout and digests of real ones, and next to no content."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path

from runtime.profile import find_profile

FILES = {"configs/tokenizer.json": b"{}", "models/decoder/{}/serving.onnx": b"graph"}


def make_package(root: Path, *variants: str) -> Path:
    """A package with the layout and digests of a real one, and next to no content."""
    for variant in variants or ("board",):
        files = {}
        for name, content in FILES.items():
            path = root / name.format(variant)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            files[name.format(variant)] = {"sha256": digest, "size_bytes": len(content)}
        (root / "models/decoder" / variant / "build.json").write_text(json.dumps(_build(variant, files)))
    return root


def _build(variant: str, files: dict[str, object]) -> dict[str, object]:
    return {
        "format": 1,
        "name": "tiny",
        "variant": variant,
        "precision": "int8",
        "source": {"kind": "folder", "id": "tiny", "revision": None, "digest": "0"},
        "profile": find_profile("generic-x86_64").model_dump(),
        "recipe": {},
        "tools": {},
        "model": {
            "architecture": "Qwen2ForCausalLM",
            "layers": 1,
            "kv_heads": 1,
            "head_dim": 8,
            "hidden_size": 8,
            "vocab_size": 8,
            "context_tokens": 8,
            "eos_token_ids": [1],
            "bos_token_id": None,
        },
        "sampling": {},
        "fidelity": None,
        "golden": {"prompt_ids": [1], "greedy_ids": [2]},
        "needs": {
            "provider": "CPUExecutionProvider",
            "arch": platform.machine(),
            "isa": [],
            "contrib_ops": [],
            "onnxruntime_min": "1.32",
        },
        "memory": {"weights_bytes": 5, "kv_bytes_per_token": 64},
        "files": files,
    }


def edit_build(root: Path, change: dict[str, object]) -> None:
    path = root / "models/decoder/board/build.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
