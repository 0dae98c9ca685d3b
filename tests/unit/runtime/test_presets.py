"""Prompt presets: what a file may say, and what a request that names one becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatml import MARKED_CHATML
from fakes import marked_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from edgeqwen.v1 import generation_pb2 as pb
from runtime.engine.grammar import Grammars
from runtime.errors import PackageCorrupt, PresetError, RequestError
from runtime.package import SamplingDefaults
from runtime.presets import FILE, Presets, parse_presets, presets_json, read_presets
from runtime.requests.chat import ChatTemplate
from runtime.requests.reader import RequestReader
from toolchain.presets import read_presets_file

TOKENS = marked_tokenizer()
PRESETS = parse_presets(
    {
        "translate": {
            "description": "Translates.",
            "system": "Into $language, for $$5.",
            "values": {"language": "French"},
            "thinking": "off",
            "sampling": {"temperature": 0.3, "top_k": 7},
        },
        "solve": {"description": "Solves.", "system": "Step by step.", "thinking": "on"},
    },
    subject="presets",
    error=PresetError,
)


def reader(template: str = MARKED_CHATML, presets: Presets = PRESETS) -> RequestReader:
    return RequestReader(
        TOKENS,
        ChatTemplate(template),
        SamplingDefaults(temperature=1.0, top_p=0.9),
        260,
        2000,
        Grammars(TOKENS, 260, frozenset({0})),
        presets=presets,
    )


def ask(preset: str, *, system: str = "", **fields: object) -> pb.GenerateRequest:
    chat = {key: fields.pop(key) for key in ("thinking", "preset_values") if key in fields}
    messages = [pb.Message(role="system", content=system)] if system else []
    chat["messages"] = [*messages, pb.Message(role="user", content="Hm?")]
    return pb.GenerateRequest(chat=pb.Chat(preset=preset, **chat), **fields)


def prompt_of(message: pb.GenerateRequest, template: str = MARKED_CHATML) -> str:
    return TOKENS.decode(list(reader(template).read(message).prompt))


def test_its_instructions_come_first() -> None:
    """Before the client's own, with the value that the client gives or else the preset's."""
    assert prompt_of(ask("translate")).startswith("<system>Into French, for $5.\n<user>")
    asked = ask("translate", system="Be brief.", preset_values={"language": "Latin"})
    assert prompt_of(asked).startswith("<system>Into Latin, for $5.\n\nBe brief.\n<user>")


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_a_value_is_text_and_nothing_more(value: str) -> None:
    """No dollar sign in it stands for anything."""
    assert prompt_of(ask("translate", preset_values={"language": value})).startswith(f"<system>Into {value}, for $5.")


def test_its_sampling_takes_the_place_of_the_models_not_of_the_clients() -> None:
    asked = reader().read(ask("translate", sampling=pb.Sampling(top_k=2))).sampling
    assert (asked.temperature, asked.top_k, asked.top_p) == (0.3, 2, 1.0)
    assert reader().read(ask("solve")).sampling.temperature == 1.0


def test_its_thinking_holds_where_the_client_says_nothing() -> None:
    """And where a structure does not need the answer at once; a model that cannot reason does not."""
    assert prompt_of(ask("solve")).endswith("<think>\n")
    assert prompt_of(ask("translate")).endswith("</think>\n\n")
    assert prompt_of(ask("solve", thinking=pb.THINKING_OFF)).endswith("</think>\n\n")
    assert prompt_of(ask("solve", regex="[0-9]")).endswith("</think>\n\n")
    assert prompt_of(ask("solve"), "{% for m in messages %}{{ m.content }}{% endfor %}") == "Step by step.Hm?"


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (ask("dance"), "chat.preset: must be one of this package's: solve, translate (got 'dance')"),
        (ask("", preset_values={"a": "b"}), "chat.preset_values: need chat.preset"),
        (
            ask("translate", preset_values={"a": "b"}),
            'chat.preset_values["a"]: is no value of the preset; it has language',
        ),
        (ask("solve", preset_values={"a": "b"}), 'chat.preset_values["a"]: is no value of the preset; it has none'),
        (
            ask("translate", preset_values={"language": "x" * 1025}),
            'chat.preset_values["language"]: must be at most 1024 bytes',
        ),
    ],
)
def test_what_makes_no_sense_is_refused(message: pb.GenerateRequest, fault: str) -> None:
    with pytest.raises(RequestError) as refusal:
        reader().read(message)
    assert str(refusal.value) == fault


def test_a_package_keeps_its_presets(tmp_path: Path) -> None:
    """What is written is what is read; a package without is one without; a broken file says so."""
    assert read_presets(tmp_path) == {}
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text(presets_json(PRESETS))
    assert read_presets(tmp_path) == PRESETS
    for broken in ("{", "[]", '{"a": {}}'):
        (tmp_path / FILE).write_text(broken)
        with pytest.raises(PackageCorrupt, match=r"presets\.json"):
            read_presets(tmp_path)


def test_every_package_has_ours() -> None:
    """For reasoning, code and many languages; each is usable as it is."""
    ours = read_presets_file()
    assert ours.keys() == {"reasoning", "code", "multilingual"}
    for name in ours:
        assert reader(presets=ours).read(ask(name)).prompt
    assert presets_json(ours) == presets_json(parse_presets(dict(ours), subject="", error=PresetError))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [", "cannot be read"),
        ("a: {description: x}", r"a\.system: is required"),
        ("a: {description: x, system: 'costs 5$'}", "is no value: write"),
        ("a: {description: x, system: 'in $tongue'}", "system asks for tongue, which values does not list"),
        ("A b: {description: x, system: y}", "must match"),
        ("a: {description: x, system: y, mood: good}", r"a\.mood: is not a known key"),
        ("a: {description: x, system: y, thinking: maybe}", r"a\.thinking: must be"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "presets.yaml").write_text(text)
    with pytest.raises(PresetError, match=reason):
        read_presets_file(tmp_path / "presets.yaml")
