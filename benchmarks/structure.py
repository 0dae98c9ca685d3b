"""What holding answers to a JSON schema costs, and what forced tokens save.

    python benchmarks/structure.py                    # the reference checkpoint at INT8
    python benchmarks/structure.py --package DIR --rounds 10

Answers of one session, interleaved, each case in turn the first: free text; JSON in which most is forced (fixed keys);
JSON in which little is (one free string). Medians over the rounds of tokens/s after the first token and of tokens a
step; and the time of llguidance's index of the vocabulary, which the first request waits for.
"""

from __future__ import annotations

import json
import statistics
import time

from machine import machine
from speculation import begin, prompts

from runtime.engine.engine import Engine
from runtime.engine.grammar import CompiledGrammar, Grammars
from runtime.engine.sequence import Delta, Event, Finished, Request, SamplingParams
from runtime.engine.tokenizer import Tokenizer
from runtime.engine.turn import TurnForm

ANSWER_TOKENS = 96
TASK = "Describe the state of the cooling pump in the north hall."
READING = {"type": "integer", "minimum": 0, "maximum": 100}
FIXED = {
    "type": "object",
    "properties": dict.fromkeys(
        ("pressure_bar", "temperature_celsius", "flow_litres_per_minute", "vibration_percent"), READING
    )
    | {"status": {"enum": ["running", "stopped", "failed"]}},
    "required": ["pressure_bar", "temperature_celsius", "flow_litres_per_minute", "vibration_percent", "status"],
    "additionalProperties": False,
}
FREE = {
    "type": "object",
    "properties": {"report": {"type": "string", "minLength": 300}},
    "required": ["report"],
    "additionalProperties": False,
}


def answer(engine: Engine, request: Request) -> tuple[float, float]:
    """Tokens/s after the first, and tokens a decode step."""
    seen: list[Event] = []
    engine.submit(request, seen.append)
    while not engine.idle:
        engine.step()
    engine.step()  # clears the slot
    end = seen[-1]
    assert isinstance(end, Finished)
    return end.timings.decode_tokens_per_second, end.usage.completion_tokens / sum(isinstance(e, Delta) for e in seen)


def main() -> None:
    options, package, session = begin(__doc__, rounds=8, slots=1)
    tokenizer = Tokenizer.from_file(package.tokenizer_file)
    eos = frozenset(package.build.model.eos_token_ids)
    grammars = Grammars(tokenizer, session.spec.vocab_size, eos)
    start_s = time.perf_counter()
    cases: dict[str, CompiledGrammar | None] = {"free text": None}
    cases["JSON, most of it forced"] = grammars.compile("json_schema", json.dumps(FIXED))
    index_s = time.perf_counter() - start_s
    cases["JSON, one free string"] = grammars.compile("json_schema", json.dumps(FREE))
    engine = Engine(
        session,
        tokenizer,
        eos_token_ids=eos,
        queue_limit=1,
        prefill_chunk_tokens=64,
        kv_budget_tokens=1024,
        speculate=False,
    )
    [prompt] = prompts(package, tokenizer, [TASK])
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for number in range(options.rounds + 1):
        for name in (*cases,) if number % 2 else (*reversed(cases),):
            sampling = SamplingParams(temperature=0.7, seed=number)
            took = answer(
                engine, Request(prompt, ANSWER_TOKENS, sampling, ignore_eos=True, turn=TurnForm(answer=cases[name]))
            )
            if number:  # the first is to warm up
                seen[name].append(took)
    print(f"{time.strftime('%Y-%m-%d')}, {machine()}, {options.threads} threads, {options.rounds} rounds\n")
    print("| answer | tokens/s | tokens a step | against free text |")
    print("|---|---|---|---|")
    free = seen["free text"]
    for name, took in seen.items():
        ratio = statistics.median(its / other for (its, _), (other, _) in zip(took, free, strict=True))
        speed, width = (statistics.median(each[at] for each in took) for at in (0, 1))
        print(f"| {name} | {speed:.1f} | {width:.2f} | {ratio:.2f} |")
    print(f"\nThe vocabulary's index and the first schema took {index_s:.2f} s, once.")


if __name__ == "__main__":
    main()
