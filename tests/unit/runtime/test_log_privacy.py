"""Nothing that a client says or hears is in the log, however a request ends: only hashes and sizes."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest
import structlog
from fakes import ScriptedSession, marked_tokenizer
from serving import serving

from edgeqwen.client import Client, ClientError, Message, Options, Tool, Turn
from runtime.access.limits import LimitBook, Limits
from runtime.api.replies import loggable
from runtime.errors import GrammarError, QueueFull
from runtime.fingerprint import fingerprint
from runtime.logs import configure

CANARY = "Zq7xCanary"
"""In it, every text that a request can hold; letters that no other word of a log has in this order."""


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    """What the whole process logs, at the level that says most; and logging as it was before."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level, saved = root.handlers[:], root.level, structlog.get_config()
    yield stream
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level
    structlog.configure(**saved)


def say_it(history: tuple[int, ...]) -> int:
    """A model that says the canary again and again."""
    text = marked_tokenizer().encode(CANARY)
    return text[len(history) % len(text)]


ASKED: list[tuple[list[Message], Options]] = [
    ([("user", CANARY)], Options(max_tokens=30, stop=(f"no {CANARY}",))),
    ([("system", CANARY), ("user", CANARY)], Options(max_tokens=30, stop=(CANARY[-3:],))),
    ([("user", CANARY)], Options(max_tokens=30, regex=f"({CANARY})+")),
    ([("user", CANARY)], Options(max_tokens=30, json_schema={"type": "object", "properties": {CANARY: {}}})),
    ([("user", CANARY)], Options(json_schema={"type": "object", "properties": {CANARY: {"type": CANARY}}})),
    ([("user", CANARY)], Options(json_schema=f"{{{CANARY}")),
    ([("user", CANARY)], Options(regex=f"({CANARY}")),
    ([("user", CANARY)], Options(grammar=f"start: {CANARY}")),
    ([("user", CANARY)], Options(tools=(Tool(CANARY, CANARY, {"type": CANARY}),))),
    ([("user", CANARY)], Options(tools=(Tool(CANARY), Tool(CANARY)), require_tool_call=True)),
    ([("user", CANARY)], Options(preset=CANARY, preset_values={CANARY: CANARY})),
    ([("user", CANARY)], Options(adapter=CANARY, model=CANARY)),
    ([(CANARY, CANARY)], Options()),
    ([("user", CANARY * 100)], Options(max_tokens=1)),
    ([Turn("tool", CANARY, tool_call_id=CANARY)], Options()),
    ([("user", CANARY)], Options(stop=(CANARY * 100,))),
]


def test_no_text_is_in_the_log(log: io.StringIO) -> None:
    """Of good requests, of such as are refused or fail, and of those that are cancelled, alone and in a batch."""
    session = ScriptedSession(say_it, vocab_size=512, context_tokens=600)
    answered = 0
    with (
        serving(session, tokenizer=marked_tokenizer(), book=LimitBook(Limits(prompt_tokens=500))) as target,
        Client(target) as client,
    ):
        configure("json", "debug", log)
        for messages, options in ASKED:
            with suppress(ClientError):
                answered += CANARY in client.chat(messages, options=options).text
            with suppress(ClientError):
                client.tokenize(messages=messages, options=options)
        session.fail_next = "out of memory"
        with pytest.raises(ClientError, match="out of memory"):
            client.complete(CANARY)
        stream = client.generate(prompt=CANARY, options=Options(max_tokens=500))
        next(stream)
        stream.close()
    said = log.getvalue()
    events = {json.loads(line)["event"] for line in said.splitlines()}
    assert {"started", "finished", "refused", "failed"} <= events
    assert answered >= 2
    assert CANARY.lower() not in said.lower()
    assert CANARY[4:] not in said


@pytest.mark.parametrize(
    "error",
    [GrammarError(f"the answer's structure could not be kept: {CANARY}"), QueueFull(3, 1.0, "panel")],
)
def test_what_a_log_may_say_of_an_error(error: GrammarError | QueueFull) -> None:
    assert CANARY not in loggable(error)
    assert loggable(error)


def test_equal_prompts_can_be_told_and_nothing_else() -> None:
    """Within one run: another draws another key, so that no list of prompts can be tried out on a log."""
    prompt = tuple(range(300))
    assert fingerprint(prompt) == fingerprint(list(prompt))
    assert len({fingerprint(prompt[:length]) for length in range(300)}) == 300
    code = "from runtime.fingerprint import fingerprint; print(fingerprint(range(300)))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(other.stdout.strip()) == len(fingerprint(prompt)) == 16
    assert other.stdout.strip() != fingerprint(prompt)


def test_a_started_request_is_logged_with_hash_and_sizes(log: io.StringIO) -> None:
    """And with who asked."""
    with serving(ScriptedSession()) as target, Client(target) as client:
        configure("json", "debug", log)
        for prompt in ("ab", "ab", "ba"):
            client.complete(prompt, options=Options(max_tokens=2, ignore_eos=True))
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    started = [line for line in lines if line["event"] == "started"]
    first, again, other = (line["prompt"] for line in started)
    assert first == again != other
    assert {(line["prompt_tokens"], line["max_tokens"], line["client"]) for line in started} == {
        (2, 2, f"uid:{os.geteuid()}")
    }
