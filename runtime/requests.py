"""From a GenerateRequest on the wire to a Request for the engine: everything checked, every fault at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeqwen.v1 import generation_pb2 as pb

from .chat import ChatMessage, ChatTemplate
from .config import SharePrefix
from .errors import Fault, RequestError
from .grammar import Grammars
from .package import SamplingDefaults
from .sequence import Grammar, Request, SamplingParams
from .tokenizer import Tokenizer

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_TOP_LOGPROBS = 20
MAX_BIASED_TOKENS = 1024
MAX_BIAS = 100.0
# What replies may hold, well below the 4 MiB that clients accept: an id takes three bytes at most.
MAX_LISTED_TOKENS = 1 << 20
MAX_JOINED_TOKENS = 1 << 17
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
        adapters: the names of those that requests may ask for.
    """

    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: SamplingDefaults
    vocab_size: int
    context_tokens: int
    grammars: Grammars
    share_prefix: SharePrefix = "client"
    adapters: tuple[str, ...] = ()

    def read(self, message: pb.GenerateRequest) -> Request:
        """Raises RequestError with every fault that can be seen without the model."""
        faults: list[Fault] = []
        faults += self._sampling_faults(message.sampling)
        faults += _stop_faults(message)
        if message.top_logprobs > MAX_TOP_LOGPROBS:
            faults.append(_range("top_logprobs", f"0 to {MAX_TOP_LOGPROBS}", message.top_logprobs))
        if message.cache_scope and len(message.cache_scope) not in SCOPE_BYTES:
            wanted = f"{SCOPE_BYTES.start} to {SCOPE_BYTES.stop - 1} bytes"
            faults.append(_range("cache_scope", wanted, len(message.cache_scope)))
        if message.HasField("max_tokens") and not 1 <= message.max_tokens <= self.context_tokens:
            faults.append(_range("max_tokens", f"1 to {self.context_tokens}", message.max_tokens))
        if message.adapter and message.adapter not in self.adapters:
            have = ", ".join(self.adapters) or "none"
            faults.append(Fault("adapter", f"must be unset or one of those there are: {have}"))
        prompt: list[int] = []
        grammar = None
        try:
            prompt = self._prompt(message)
        except RequestError as error:
            faults += error.faults
        else:
            faults += self._length_faults(prompt)
        try:
            grammar = self._grammar(message)
        except RequestError as error:
            faults += error.faults
        if faults:
            raise RequestError(faults)
        return Request(
            prompt=tuple(prompt),
            max_tokens=message.max_tokens or self.context_tokens - len(prompt),
            sampling=self._sampling(message.sampling),
            stop=tuple(message.stop),
            ignore_eos=message.ignore_eos,
            top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
            grammar=grammar,
            scope=self._scope(message),
            adapter=message.adapter or None,
        )

    def tokens(self, message: pb.TokenizeRequest) -> list[int]:
        """The tokens of a conversation or a text. Raises RequestError, also for more than a reply can list."""
        ids = self._prompt(message)
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

    def _prompt(self, message: pb.GenerateRequest | pb.TokenizeRequest) -> list[int]:
        kind = message.WhichOneof("input")
        if kind == "chat":
            if self.template is None:
                raise RequestError([Fault("chat", "this model has no chat template; send a raw prompt")])
            messages = [ChatMessage(each.role, each.content) for each in message.chat.messages]
            return self.tokenizer.encode(self.template.render(messages))
        if kind == "prompt":
            return self.tokenizer.encode(message.prompt)
        if isinstance(message, pb.TokenizeRequest):
            raise RequestError([Fault("input", "is required: set chat or prompt")])
        if kind == "token_ids":
            return self._known("token_ids.ids", message.token_ids.ids)
        raise RequestError([Fault("input", "is required: set chat, prompt or token_ids")])

    def _grammar(self, message: pb.GenerateRequest) -> Grammar | None:
        kind = message.WhichOneof("structure")
        return self.grammars.compile(kind, getattr(message, kind)) if kind else None

    def _known(self, path: str, token_ids: Iterable[int]) -> list[int]:
        ids = list(token_ids)
        bad = next((at for at, token in enumerate(ids) if token >= self.vocab_size), None)
        if bad is not None:
            raise RequestError([_range(f"{path}[{bad}]", f"below {self.vocab_size}", ids[bad])])
        return ids

    def _length_faults(self, prompt: list[int]) -> list[Fault]:
        if not prompt:
            return [Fault("input", "must hold at least one token")]
        room = self.context_tokens - 1
        if len(prompt) > room:
            return [Fault("input", f"has {len(prompt)} tokens; at most {room} leave room for an answer: shorten it")]
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

    def _sampling(self, sampling: pb.Sampling) -> SamplingParams:
        defaults = self.defaults

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
