"""A request on its way through the engine: what was asked, and how far it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain

from ..errors import EdgeQwenError
from .turn import TurnForm


@dataclass(frozen=True)
class SamplingParams:
    """How to pick tokens. The defaults are greedy decoding."""

    temperature: float = 0.0
    """0 is greedy; otherwise logits are divided by it."""
    top_k: int = 0
    """Keep the k most likely; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest whose probabilities reach this; 1 keeps all."""
    min_p: float = 0.0
    """Keep those at least this fraction as likely as the most likely; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens already seen; 1 changes nothing."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that the completion has."""
    frequency_penalty: float = 0.0
    """The same, for each time the completion has them."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens, and what is added to their logits before anything else."""
    seed: int | None = None
    """The same seed draws the same numbers; None draws a fresh one."""


@dataclass(frozen=True)
class Request:
    """What a client asked for, checked and tokenized."""

    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    """How many of the likeliest tokens are told with each token's log-probability; None tells neither."""
    turn: TurnForm = field(default_factory=TurnForm)
    """What the answer may consist of, and must look like."""
    scope: bytes | None = None
    """Requests of one scope and adapter may start from each other's KV; None keeps it to itself."""
    adapter: str | None = None
    """The adapter that the model runs with; None is the model as it is."""
    chat: bool = field(default=False, compare=False)
    """Whether the prompt was a conversation; for who counts requests: to the engine it makes no difference."""
    deterministic: bool = False
    """Whether its tokens must not depend, by rounding, on what else is computed or kept."""
    client: str = ""
    """The name of who asks; clients have equal rights to be served."""


class FinishReason(Enum):
    """Why a generation ended."""

    EOS = auto()
    STOP = auto()
    LENGTH = auto()
    TOOL_CALLS = auto()


@dataclass(frozen=True)
class Usage:
    """Tokens in and out; those of the prompt whose KV was there already are `cached_prompt_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int


@dataclass(frozen=True)
class Timings:
    """Where the time of one request went, on the engine's monotonic clock."""

    queue_ms: float
    time_to_first_token_ms: float
    total_ms: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probabilities of a sampled token and of the likeliest ones, best first, as the model gave them."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class ToolCall:
    """The model wants `name` to be called with `arguments`, a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Delta:
    """More of the completion; no text splits a UTF-8 character. `logprobs` has one for each token, or none."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @staticmethod
    def join(deltas: Iterable[Delta]) -> Delta:
        """What follows each other, as one."""
        its = tuple(deltas)
        return Delta(
            "".join(each.text for each in its),
            tuple(chain.from_iterable(each.token_ids for each in its)),
            tuple(chain.from_iterable(each.logprobs for each in its)),
            "".join(each.reasoning for each in its),
            tuple(chain.from_iterable(each.tool_calls for each in its)),
        )


@dataclass(frozen=True)
class Finished:
    """The completion has ended."""

    reason: FinishReason
    usage: Usage
    timings: Timings
    stop: str | None = None


@dataclass(frozen=True)
class Failed:
    """The engine could not go on with the request; the service answers with an error.

    `error` is what it is, if it hit this request alone.
    """

    message: str
    error: EdgeQwenError | None = None


Event = Delta | Finished | Failed


@dataclass(eq=False)
class Sequence:
    """A request with its progress. Compared by identity; only the engine's thread changes it.

    Tokens `[0, computed)` of `prompt + output` are in the KV cache of `slot`, the first `cached` of them taken from
    another row, and of these the first `cached_exact` as a prefill from the prompt's first token on computes them. A
    sequence is in prefill until its whole prompt is computed; then every decode step computes its last output token and
    appends the next.
    """

    id: int
    request: Request
    output: list[int] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    cached_exact: int = 0
    slot: int | None = None
    group: int | None = None
    """The id of the first of those that were submitted together; None: it was alone."""
    deadline_s: float | None = None
    """When it is of no use any more, on the engine's monotonic clock."""
    new_tokens: int = 0
    """At least how many tokens of its prompt have to be computed, as it was when it came."""

    @property
    def prompt_tokens(self) -> int:
        return len(self.request.prompt)

    @property
    def in_prefill(self) -> bool:
        return self.computed < self.prompt_tokens

    @property
    def computed_tokens(self) -> tuple[int, ...]:
        """Those in the KV cache."""
        return (*self.request.prompt, *self.output)[: self.computed]

    @property
    def slot_in_use(self) -> int:
        """The slot of a running sequence."""
        assert self.slot is not None
        return self.slot

    @property
    def kv_tokens_needed(self) -> int:
        """The most tokens its KV can grow to: the last sampled token is never written."""
        return self.prompt_tokens + self.request.max_tokens - 1

    def __repr__(self) -> str:
        where = "queued" if self.slot is None else f"slot {self.slot}"
        phase = "prefill" if self.in_prefill else "decode"
        return (
            f"<Sequence {self.id} {where} {phase} {self.computed}/{self.prompt_tokens}"
            f" +{len(self.output)}/{self.request.max_tokens}>"
        )
