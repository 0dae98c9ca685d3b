"""Chat templates: rendered as transformers does, with no way out of the sandbox."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chatml import CHATML
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import PackageError, RequestError
from runtime.requests.chat import MAX_MESSAGES, ROLES, ChatMessage, ChatTemplate

MODELS = ["Qwen2.5-0.5B-Instruct", "Qwen3-0.6B"]
USER = [ChatMessage("user", "a")]
CONTENT = st.text(max_size=30) | st.sampled_from(["<think>\nx\n</think>\n\ny", "{{ 1 }}", "<|im_end|>", "  \n"])


@cache
def _tokenizer(folder: Path) -> Any:
    if not folder.is_dir():
        pytest.skip(f"needs {folder.name} in ../shared/models")
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=MODELS)
def theirs(request: pytest.FixtureRequest, shared: Path) -> Any:
    """A tokenizer of transformers with a real template."""
    return _tokenizer(shared / "models" / request.param)


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("roles", [("user",), ("system", "user"), ("user", "assistant"), ROLES * 2, ("assistant",)])
def test_roles_in_any_order_render_as_in_transformers(theirs: Any, roles: tuple[str, ...], prompt: bool) -> None:
    """With and without the beginning of an answer, and also where the conversation is an odd one."""
    turns = [{"role": role, "content": f"{role} <b>& ü\n"} for role in roles]
    ours = ChatTemplate(theirs.chat_template, eos_token=theirs.eos_token)
    expected = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
    assert ours.render([ChatMessage(**turn) for turn in turns], add_generation_prompt=prompt) == expected


@pytest.mark.parametrize("model", MODELS)
@given(turns=st.lists(st.tuples(st.sampled_from(ROLES), CONTENT), min_size=1, max_size=5))
@settings(max_examples=50)
def test_any_conversation_renders_as_in_transformers(shared: Path, model: str, turns: list[tuple[str, str]]) -> None:
    """Whatever users write is text, never template, and comes out as transformers has it, or both refuse it."""
    theirs = _tokenizer(shared / "models" / model)
    ours = _compiled(theirs.chat_template)
    messages = [ChatMessage(role, content) for role, content in turns]
    dicts = [{"role": role, "content": content} for role, content in turns]
    expected = theirs.apply_chat_template(dicts, tokenize=False, add_generation_prompt=True)
    assert ours.render(messages) == expected


@cache
def _compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source)


def test_as_many_messages_as_may_be_are_rendered() -> None:
    """The limit itself is no fault, one more is."""
    assert ChatTemplate(CHATML).render(USER * MAX_MESSAGES).count("<|im_start|>user") == MAX_MESSAGES
    with pytest.raises(RequestError, match="must hold at most 1024 messages"):
        ChatTemplate(CHATML).render(USER * (MAX_MESSAGES + 1))


@pytest.mark.parametrize("role", ["", "User", "robot", "system ", "x" * 1000])
def test_only_known_roles_are_rendered(role: str) -> None:
    """An unknown role is named, in few words, with its place."""
    with pytest.raises(RequestError, match=r"chat\.messages\[1\]\.role: must be one of") as refusal:
        ChatTemplate(CHATML).render([*USER, ChatMessage(role, "a")])
    assert len(str(refusal.value)) < 150


def test_all_roles_at_fault_are_reported_at_once() -> None:
    """One answer is enough to correct them all."""
    with pytest.raises(RequestError) as refusal:
        ChatTemplate(CHATML).render([ChatMessage("boss", "a"), *USER, ChatMessage("robot", "b")])
    assert [fault.path for fault in refusal.value.faults] == ["chat.messages[0].role", "chat.messages[2].role"]


def test_empty_content_is_content() -> None:
    """A turn without a word is a turn."""
    assert (
        ChatTemplate(CHATML)
        .render([ChatMessage("user", "")], add_generation_prompt=False)
        .endswith("<|im_start|>user\n<|im_end|>\n")
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ messages|attr('__class__') }}",
        "{{ messages['__class__'] }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ '%s'|format(messages.__class__) }}",
        "{{ messages|map(attribute='__class__')|list }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__self__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ namespace.__init__.__globals__.sys }}",
        "{{ self.__init__.__globals__ }}",
        "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    ],
)
def test_no_attribute_leads_out_of_the_sandbox(source: str) -> None:
    """A template that reaches for Python's internals is refused, or gets nothing."""
    try:
        text = ChatTemplate(source).render(USER)
    except RequestError:
        return
    assert not any(word in text for word in ("class '", "module", "built-in", "__name__"))


@pytest.mark.parametrize("source", ["{{ messages.append(1) }}", "{{ messages[0].update(role='x') }}"])
def test_a_template_changes_nothing_it_was_given(source: str) -> None:
    """What it gets is read-only to it."""
    with pytest.raises(RequestError, match="refuses"):
        ChatTemplate(source).render(USER)


def test_templates_have_what_transformers_gives_them() -> None:
    """The filter, the globals, the loop controls, the white space and the tokens that checkpoints count on."""
    template = ChatTemplate(
        "{% for message in messages %}\n  {% if loop.index > 1 %}{% break %}{% endif %}\n{{ message|tojson }}\n"
        "{% endfor %}{{ bos_token }}{{ eos_token }}{{ strftime_now('%%') }}",
        bos_token="<s>",
        eos_token="</s>",
    )
    assert template.render([ChatMessage("user", "<ü>"), *USER]) == ('{"role": "user", "content": "<ü>"}\n<s></s>%')


@pytest.mark.parametrize("source", ["{% for %}", "{{ ", "{% endif %}", "{{ a|no_such_filter }}"])
def test_a_broken_template_is_the_packages_fault(source: str) -> None:
    """It is found before the first request."""
    with pytest.raises(PackageError, match="the package's chat template is broken"):
        ChatTemplate(source)
