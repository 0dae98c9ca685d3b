"""Hostile bodies of the OpenAI API: good ones with values that nobody should send, and their text broken."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from fuzz.messages import CANARY, STRINGS, broken

MODEL = "tiny"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

_TOOL = {"type": "function", "function": {"name": "pump", "parameters": {"type": "object", "properties": {}}}}
_GOOD: dict[str, list[dict[str, Any]]] = {
    CHAT: [
        {"messages": [{"role": "user", "content": f"Is it {CANARY}?"}]},
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "a"}]},
            ]
        },
        {"messages": [{"role": "user", "content": "a"}], "tools": [_TOOL], "tool_choice": "auto"},
        {"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}},
    ],
    COMPLETIONS: [{"prompt": "One, two"}, {"prompt": [65, 66, 67]}],
}
_FIELDS = [
    "best_of",
    "echo",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "min_p",
    "model",
    "n",
    "parallel_tool_calls",
    "presence_penalty",
    "prompt",
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "store",
    "stream",
    "stream_options",
    "suffix",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "user",
    "xyzzy",
]
_NUMBERS = (0, -1, 1, 2, 17, 1e308, -1e308, 1e-320, 2**31, 2**53 + 1, 2**64, 10**400, 0.1, float("nan"), float("inf"))


def good(path: str, chance: random.Random) -> dict[str, Any]:
    """A body that can be answered, in a few tokens."""
    return copy.deepcopy(chance.choice(_GOOD[path])) | {
        "model": MODEL,
        "max_tokens": chance.randint(1, 8),
        "stream": chance.random() < 0.4,
    }


def hostile(path: str, chance: random.Random) -> bytes:
    """A body, mostly with some of its values changed; now and then it is no JSON any more."""
    body = good(path, chance)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        if chance.random() < 0.5:
            body[chance.choice(_FIELDS)] = _value(chance, depth=0)
        else:
            _change(body, chance)
    text = json.dumps(body, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    return broken(text, chance) if chance.random() < 0.15 else text


def _change(value: Any, chance: random.Random) -> None:
    """Something in it."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = chance.choice(keys)
    if isinstance(value[key], dict | list) and chance.random() < 0.7:
        _change(value[key], chance)
    elif chance.random() < 0.2:
        del value[key]
    else:
        value[key] = _value(chance, depth=0)


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(8 if depth < 4 else 5)
    if kind == 0:
        return chance.choice(STRINGS)
    if kind == 1:
        return chance.choice(_NUMBERS)
    if kind == 2:
        return chance.choice([None, True, False, "", [], {}])
    if kind == 3:
        return chance.choice(["auto", "none", "required", "json_schema", "user", "tool", "\ud800", CANARY])
    if kind == 4:
        return {str(chance.randrange(300)): chance.choice(_NUMBERS) for _ in range(chance.choice([1, 3, 1100]))}
    if kind == 5:
        return [_value(chance, depth + 1) for _ in range(chance.choice([1, 2, 5]))]
    if kind == 6:
        return [_value(chance, 9)] * chance.choice([20, 1100])
    return {chance.choice([*_FIELDS, "type", "text", "role", "content"]): _value(chance, depth + 1) for _ in range(3)}
