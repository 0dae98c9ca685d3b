"""From a GenerateRequest on the wire to a Request for the engine: everything checked, every fault at once."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from edgeqwen.v1 import generation_pb2 as pb

from ..access.caller import current
from ..access.limits import LimitBook, Limits
from ..configuration.config import SharePrefix
from ..engine.grammar import Grammars
from ..engine.sequence import Request, SamplingParams
from ..engine.structure import Grammar
from ..engine.tokenizer import Tokenizer
from ..engine.turn import TurnForm
from ..errors import Fault, RequestError
from ..package import SamplingDefaults
from ..presets import Presets
from .chat import ChatTemplate
from .conversations import Conversation, ConversationReader, Wish

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_TOP_LOGPROBS = 20
MAX_SAMPLES = 16
MAX_BATCH = 1024
MAX_BIASED_TOKENS = 1024
MAX_BIAS = 100.0
# What replies may hold, well below the 4 MiB that clients accept: an id takes three bytes at most.
MAX_LISTED_TOKENS = 1 << 20
MAX_JOINED_TOKENS = 1 << 17
MAX_TOLD_LOGPROBS = 1 << 17
MAX_JOINED_BYTES = 3 << 20
SCOPE_BYTES = range(16, 65)
SHARED_SCOPE = b""
"""The scope of every request where clients share."""


@dataclass(frozen=True)
class RequestReader:
    """What it takes to read a request: the model's tokenizer and template, its limits and its defaults.

    Args:
        template: None if the package has none; conversations are refused then.
        vocab_size: token ids must be below it.
        context_tokens: the most tokens of a prompt and its answer together.
        grammars: compiles what answers must look like.
        share_prefix: whose KV a request may start from: its own client's, everybody's, or nobody's.
        presets: what conversations may name.
        deterministic: whether requests are that do not say.
        exact: whether requests can be deterministic here.
        adapters: the names of those that requests may ask for.
        limits: how long prompts and answers of a client may be, asked for each request.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: SamplingDefaults
    vocab_size: int
    context_tokens: int
    grammars: Grammars
    share_prefix: SharePrefix = "client"
    presets: Presets = field(default_factory=dict)
    deterministic: bool = False
    exact: bool = True
    adapters: tuple[str, ...] = ()
    limits: Callable[[str], Limits] = LimitBook().of

    def read(self, message: pb.GenerateRequest) -> Request:
        """The caller's request. Raises RequestError with every fault that can be seen without the model."""
        client = current().name
        limits = self.limits(client)
        faults: list[Fault] = []
        faults += self._sampling_faults(message.sampling)
        faults += _stop_faults(message)
        if message.top_logprobs > MAX_TOP_LOGPROBS:
            faults.append(_range("top_logprobs", f"0 to {MAX_TOP_LOGPROBS}", message.top_logprobs))
        if message.cache_scope and len(message.cache_scope) not in SCOPE_BYTES:
            wanted = f"{SCOPE_BYTES.start} to {SCOPE_BYTES.stop - 1} bytes"
            faults.append(_range("cache_scope", wanted, len(message.cache_scope)))
        samples = min(MAX_SAMPLES, limits.concurrent_requests or MAX_SAMPLES)
        if message.HasField("n") and not 1 <= message.n <= samples:
            faults.append(_range("n", f"1 to {samples}", message.n))
        longest = min(self.context_tokens, limits.output_tokens or self.context_tokens)
        if message.HasField("max_tokens") and not 1 <= message.max_tokens <= longest:
            faults.append(_range("max_tokens", f"1 to {longest}", message.max_tokens))
        if message.adapter and message.adapter not in self.adapters:
            have = ", ".join(self.adapters) or "none"
            faults.append(Fault("adapter", f"must be unset or one of those there are: {have}"))
        deterministic = message.deterministic if message.HasField("deterministic") else self.deterministic
        if deterministic and not self.exact:
            faults.append(Fault("deterministic", "must be unset or false: this device rounds by how many rows run"))
        asked, grammar = Conversation([]), None
        try:
            grammar = self._grammar(message)
        except RequestError as error:
            faults += error.faults
        try:
            asked = self._conversation(message, grammar)
        except RequestError as error:
            faults += error.faults
        else:
            faults += self._length_faults(asked.prompt, message.max_tokens, limits)
        if faults:
            raise RequestError(faults)
        return Request(
            prompt=tuple(asked.prompt),
            max_tokens=message.max_tokens or min(longest, self.context_tokens - len(asked.prompt)),
            sampling=_sampling(message.sampling, asked.sampling or self.defaults),
            stop=tuple(message.stop),
            ignore_eos=message.ignore_eos,
            top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
            turn=asked.turn,
            scope=self._scope(message),
            adapter=message.adapter or None,
            chat=message.WhichOneof("input") == "chat",
            deterministic=deterministic,
            client=client,
        )

    def samples(self, message: pb.GenerateRequest) -> tuple[Request, ...]:
        """The `n` requests of one message, which share a scope of their own if it names none. Raises as `read` does."""
        request, count = self.read(message), message.n if message.HasField("n") else 1
        if count == 1:
            return (request,)
        scope = secrets.token_bytes(SCOPE_BYTES.start) if request.scope is None else request.scope
        return tuple(replace(request, scope=scope, sampling=_sample(request.sampling, at)) for at in range(count))

    def batch(self, message: pb.GenerateBatchRequest) -> list[tuple[int, int, Request]]:
        """The requests of a batch: for each completion the place of its request, its own, and what to compute.

        Raises RequestError with the faults of all.
        """
        asked: list[tuple[int, int, Request]] = []
        faults: list[Fault] = []
        for place, each in enumerate(message.requests):
            path = f"requests[{place}]"
            try:
                samples = self.samples(each)
            except RequestError as error:
                faults += [Fault(f"{path}.{fault.path}", fault.message) for fault in error.faults]
                continue
            asked += [(place, index, request) for index, request in enumerate(samples)]
            if each.model:
                faults.append(Fault(f"{path}.model", "must be unset: the batch's names the model for all of them"))
            if each.HasField("top_logprobs") and (1 + each.top_logprobs) * samples[0].max_tokens > MAX_TOLD_LOGPROBS:
                faults.append(
                    Fault(f"{path}.top_logprobs", "are too many for one reply: lower max_tokens, or Generate")
                )
        if not message.requests:
            faults.append(Fault("requests", "must hold at least one"))
        if len(asked) > MAX_BATCH:
            faults.append(Fault("requests", f"must make at most {MAX_BATCH} completions (got {len(asked)})"))
        if faults:
            raise RequestError(faults)
        return asked

    def tokens(self, message: pb.TokenizeRequest) -> list[int]:
        """The tokens of a conversation or a text. Raises RequestError, also for more than a reply can list."""
        ids = self._conversation(message).prompt
        if len(ids) > MAX_LISTED_TOKENS and not message.count_only:
            raise RequestError(
                [Fault("input", f"has {len(ids)} tokens, too many to list: set count_only, or split it")]
            )
        return ids

    def text(self, message: pb.DetokenizeRequest) -> str:
        """The text of tokens. Raises RequestError for one that the model does not have, or for too many."""
        if len(message.token_ids) > MAX_JOINED_TOKENS:
            raise RequestError([_range("token_ids", f"at most {MAX_JOINED_TOKENS} tokens", len(message.token_ids))])
        text = self.tokenizer.decode(self._known("token_ids", message.token_ids))
        if len(text.encode()) > MAX_JOINED_BYTES:
            raise RequestError([Fault("token_ids", "make a text too long for one reply: send fewer")])
        return text

    def _conversation(
        self, message: pb.GenerateRequest | pb.TokenizeRequest, grammar: Grammar | None = None
    ) -> Conversation:
        kind = message.WhichOneof("input")
        if kind == "chat":
            return self._conversations.read(message.chat, _wish(message, grammar))
        if faults := _chat_only_faults(message):
            raise RequestError(faults)
        if kind == "prompt":
            return Conversation(self.tokenizer.encode(message.prompt), TurnForm(answer=grammar))
        if isinstance(message, pb.TokenizeRequest):
            raise RequestError([Fault("input", "is required: set chat or prompt")])
        if kind == "token_ids":
            return Conversation(self._known("token_ids.ids", message.token_ids.ids), TurnForm(answer=grammar))
        raise RequestError([Fault("input", "is required: set chat, prompt or token_ids")])

    @cached_property
    def _conversations(self) -> ConversationReader:
        return ConversationReader(self.tokenizer, self.template, self.grammars, self.presets)

    def _grammar(self, message: pb.GenerateRequest) -> Grammar | None:
        kind = message.WhichOneof("structure")
        return self.grammars.compile(kind, getattr(message, kind)) if kind else None

    def _known(self, path: str, token_ids: Iterable[int]) -> list[int]:
        ids = list(token_ids)
        bad = next((at for at, token in enumerate(ids) if token >= self.vocab_size), None)
        if bad is not None:
            raise RequestError([_range(f"{path}[{bad}]", f"below {self.vocab_size}", ids[bad])])
        return ids

    def _length_faults(self, prompt: list[int], max_tokens: int, limits: Limits) -> list[Fault]:
        if not prompt:
            return [Fault("input", "must hold at least one token")]
        if limits.prompt_tokens is not None and len(prompt) > limits.prompt_tokens:
            allowed = f"a prompt of this client may have {limits.prompt_tokens}"
            return [Fault("input", f"has {len(prompt)} tokens; {allowed}: shorten it")]
        room = self.context_tokens - 1
        if len(prompt) > room:
            return [Fault("input", f"has {len(prompt)} tokens; at most {room} leave room for an answer: shorten it")]
        most = self.context_tokens - len(prompt)
        if most < max_tokens <= self.context_tokens:
            limit = f"at most {most}: the prompt's {len(prompt)} tokens and the answer share {self.context_tokens}"
            return [_range("max_tokens", limit, max_tokens)]
        return []

    def _sampling_faults(self, sampling: pb.Sampling) -> list[Fault]:
        """Written so that NaN is out of every range."""
        checks = (
            ("temperature", "0 to 10", 0 <= sampling.temperature <= 10),
            ("top_k", f"0 to {self.vocab_size}", sampling.top_k <= self.vocab_size),
            ("top_p", "more than 0, up to 1", 0 < sampling.top_p <= 1),
            ("min_p", "0 to 1", 0 <= sampling.min_p <= 1),
            ("repetition_penalty", "more than 0, up to 10", 0 < sampling.repetition_penalty <= 10),
            ("presence_penalty", "-2 to 2", -2 <= sampling.presence_penalty <= 2),
            ("frequency_penalty", "-2 to 2", -2 <= sampling.frequency_penalty <= 2),
        )
        faults = [
            _range(f"sampling.{name}", wanted, getattr(sampling, name))
            for name, wanted, good in checks
            if sampling.HasField(name) and not good
        ]
        return faults + self._bias_faults(sampling.logit_bias)

    def _bias_faults(self, logit_bias: Mapping[int, float]) -> list[Fault]:
        if len(logit_bias) > MAX_BIASED_TOKENS:
            return [_range("sampling.logit_bias", f"at most {MAX_BIASED_TOKENS} tokens", len(logit_bias))]
        unknown = [
            Fault(f"sampling.logit_bias[{token}]", f"is no token: they are below {self.vocab_size}")
            for token in sorted(logit_bias)
            if token >= self.vocab_size
        ]
        return unknown + [
            _range(f"sampling.logit_bias[{token}]", f"-{MAX_BIAS:g} to {MAX_BIAS:g}", bias)
            for token, bias in sorted(logit_bias.items())
            if not abs(bias) <= MAX_BIAS
        ]

    def _scope(self, message: pb.GenerateRequest) -> bytes | None:
        if self.share_prefix == "all":
            return SHARED_SCOPE
        return (message.cache_scope or None) if self.share_prefix == "client" else None


def _sampling(sampling: pb.Sampling, defaults: SamplingDefaults) -> SamplingParams:
    """What is unset takes the default."""

    def pick(name: str, default: float) -> float:
        value: float = getattr(sampling, name) if sampling.HasField(name) else default
        return value

    return SamplingParams(
        temperature=pick("temperature", defaults.temperature),
        top_k=int(pick("top_k", defaults.top_k)),
        top_p=pick("top_p", defaults.top_p),
        min_p=pick("min_p", defaults.min_p),
        repetition_penalty=pick("repetition_penalty", defaults.repetition_penalty),
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=tuple(sorted(sampling.logit_bias.items())),
        seed=sampling.seed if sampling.HasField("seed") else None,
    )


def _sample(sampling: SamplingParams, index: int) -> SamplingParams:
    seed = None if sampling.seed is None else (sampling.seed + index) % (1 << 64)
    return replace(sampling, seed=seed)


def _wish(message: pb.GenerateRequest | pb.TokenizeRequest, grammar: Grammar | None) -> Wish:
    if isinstance(message, pb.TokenizeRequest):
        return Wish()
    budget = message.thinking_budget_tokens if message.HasField("thinking_budget_tokens") else None
    return Wish(grammar, message.require_tool_call, budget)


def _chat_only_faults(message: pb.GenerateRequest | pb.TokenizeRequest) -> list[Fault]:
    wish = _wish(message, None)
    given = {"require_tool_call": wish.must_call, "thinking_budget_tokens": wish.reasoning_tokens is not None}
    return [Fault(field, "is only for a chat: a prompt is continued as it is") for field, set_ in given.items() if set_]


def _stop_faults(message: pb.GenerateRequest) -> list[Fault]:
    if len(message.stop) > MAX_STOPS:
        return [Fault("stop", f"must hold at most {MAX_STOPS} strings (got {len(message.stop)})")]
    sizes = [len(stop.encode()) for stop in message.stop]
    return [
        _range(f"stop[{at}]", f"1 to {MAX_STOP_BYTES} bytes", size)
        for at, size in enumerate(sizes)
        if not 1 <= size <= MAX_STOP_BYTES
    ]


def _range(path: str, wanted: str, got: float) -> Fault:
    shown = f"{got:g}" if isinstance(got, float) and math.isfinite(got) else str(got)
    return Fault(path, f"must be {wanted} (got {shown})")
