"""The engine: one thread that admits, schedules, runs, samples and commits, step after step.

`submit` and `cancel` may be called from any thread. Everything they share with the engine's thread is changed under one
lock; the model runs, and events are delivered, outside it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from ..access.clients import Clients
from ..errors import (
    DeadlineTooShort,
    EdgeQwenError,
    Exhausted,
    Fault,
    GrammarError,
    QueueFull,
    RateLimited,
    RequestError,
    Unavailable,
)
from ..sessions.session import Session
from .completion import Completion, Pick
from .kvcache import KVCache
from .lateness import Lateness
from .live import Companion, Live, Ready, Sink, finished_of, picks_of
from .lowering import Lowering
from .observer import Observer, Outcome
from .pace import Pace
from .progress import Progress
from .request_meter import RequestFigures, RequestMeter
from .runner import Runner
from .scheduler import Scheduler, Step
from .sequence import Delta, Event, Failed, FinishReason, Request, Sequence
from .speculation import TOKEN_COST, Guesser
from .stats import EngineStats, Meter
from .throttle import Throttle
from .tokenizer import Tokenizer


class Engine:
    """Serves many requests on one session, batched continuously.

    Args:
        session: the loaded model; from `start` on, only the engine's thread touches it. Slots beyond `max_running`
            hold what earlier requests left.
        tokenizer: turns tokens into text.
        eos_token_ids: tokens that end a turn.
        queue_limit: requests that may wait beyond those that free slots take at once.
        prefill_chunk_tokens: the most prompt tokens computed in one step.
        kv_budget_tokens: the most KV tokens promised to running requests or kept of earlier ones.
        max_running: the most requests at once; None: as many as the session has slots.
        speculate: whether a step may compute tokens that are guessed from the request's own text.
        token_cost: of a further token in a step, against a step with one; it decides how many guesses pay.
        ids: numbers of the requests, those of all engines in a process if they share it.
        clients: keeps them to their limits and counts; None: there are no limits.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        *,
        eos_token_ids: frozenset[int],
        queue_limit: int,
        prefill_chunk_tokens: int,
        kv_budget_tokens: int,
        max_running: int | None = None,
        speculate: bool = True,
        token_cost: float = TOKEN_COST,
        ids: Iterator[int] | None = None,
        clients: Clients | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = session.spec
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._clock = clock
        self._speculate = speculate and self._spec.many_logits
        self._token_cost = token_cost
        self._scheduler = Scheduler(
            KVCache(self._spec.slots, kv_budget_tokens, max_running=max_running),
            queue_limit=queue_limit,
            prefill_chunk_tokens=prefill_chunk_tokens,
            token_cost=token_cost,
        )
        self._runner = Runner(session, rows=self._scheduler.kv.max_running, token_cost=token_cost)
        self._live: dict[Sequence, Live] = {}
        self._ids = ids or itertools.count(1)
        self._meter = Meter()
        self._requests = RequestMeter()
        self._progress = Progress()
        self._lowering = Lowering(self._spec.threads, self._scheduler.kv.max_running)
        self._on_work: Callable[[], None] = lambda: None
        self._pace = Pace()
        self._lateness = Lateness(self._scheduler, self._pace)
        self._clients = clients or Clients(clock=clock)
        self._step_began_s = clock()
        self._draining = False
        self._stopping = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._companions: list[Companion] = []

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its completion together: of the context, and of the KV budget."""
        return min(self._spec.context_tokens, self._scheduler.kv.budget_tokens)

    @property
    def vocab_size(self) -> int:
        return self._spec.vocab_size

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or running."""
        with self._wake:
            return not self._live

    def wait_for_kv(self) -> bool:
        """Blocks until requests run or wait, or earlier ones left KV; False once the engine stops."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self.has_work or self._scheduler.kv.warm_tokens)
            return not self._stopping

    def observe(self, observer: Observer) -> None:
        """From now on `observer` hears of its requests. To be called before `start`."""
        self._requests.observer = observer

    @property
    def levels(self) -> tuple[Throttle, ...]:
        """What it can be lowered to, full power first."""
        return self._lowering.levels

    @property
    def has_work(self) -> bool:
        """Whether anything is queued, running or to be cleared; without the lock, as `stalled`."""
        return not self._scheduler.idle

    @property
    def failures(self) -> int:
        """Steps that failed since the last that worked."""
        return self._progress.failures

    def stalled(self, bound_s: float) -> bool:
        """Whether there is work and no step has ended for longer than `bound_s`. Never blocks."""
        return self.has_work and self._progress.age_s(self._clock()) > bound_s

    def when_work_comes(self, call: Callable[[], None]) -> None:
        """`call` is called, on the thread that submits, when work comes to an engine that had none."""
        self._on_work = call

    @property
    def throttled(self) -> Throttle:
        """What it may use now."""
        return self._lowering.now

    def throttle(self, throttle: Throttle) -> None:
        """From the next step on no more than this is used: one of `levels`, with a reason."""
        with self._wake:
            self._lowering.now = throttle
            self._scheduler.kv.limit_running(throttle.rows)
            self._wake.notify_all()

    def wait_idle(self, timeout_s: float) -> bool:
        """Blocks until nothing is queued or running; False if that takes longer than `timeout_s`."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._live, timeout_s)

    def accompany(self, companion: Companion) -> None:
        """`companion` is to start and stop with the engine, which has not started yet."""
        self._companions.append(companion)

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()
        for companion in self._companions:
            companion.start()

    def drain(self) -> None:
        """Refuses new requests from now on; those accepted go on to their end."""
        with self._wake:
            self._draining = True

    def stop(self, reason: str = "the daemon stopped before the request had ended") -> None:
        """Ends the thread after its current step. Requests that had not ended get `Failed` with `reason`.

        The session is let go: who still holds the engine, as for a client that reads slowly, holds no weights.
        """
        with self._wake:
            self._draining = self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        while self._companions:  # none keeps an engine in memory that has stopped
            self._companions.pop().stop()
        self._fail_all(reason)
        self._runner.close()

    def submit(self, request: Request, sink: Sink, *, timeout_s: float | None = None) -> Sequence:
        """Queues `request`. `sink` gets its events, mostly on the engine's thread, and must not block.

        Args:
            timeout_s: the request is of no use after so long; None: it always is.

        Raises QueueFull, RateLimited, DeadlineTooShort, or Unavailable while draining.
        """
        return self.submit_all([(request, sink)], timeout_s=timeout_s)[0]

    def submit_all(self, asked: list[tuple[Request, Sink]], *, timeout_s: float | None = None) -> list[Sequence]:
        """Queues all of them, one behind the other, or none. They are of one client.

        Raises as `submit` does, and RequestError for more than the queue ever has room for.
        """
        most = self._scheduler.queue_limit + self._scheduler.kv.max_running
        if len(asked) > most:
            raise RequestError([Fault("n", f"must be at most {most}, as many as wait and run here (got {len(asked)})")])
        client = asked[0][0].client
        completions = []
        for request, _ in asked:
            assert request.client == client
            assert len(request.prompt) > 0
            assert 0 < request.max_tokens <= self.context_tokens - len(request.prompt)
            completions.append(Completion(request, self._tokenizer, self._eos_token_ids, self.vocab_size))
        with self._wake:
            if self._draining:
                raise Unavailable("the daemon is shutting down; send the request to another one")
            try:
                leave = self._make_way(asked, timeout_s)
            except (Exhausted, DeadlineTooShort) as error:
                self._meter.rejected()
                self._requests.refused(asked[0][0], error)
                if not isinstance(error, RateLimited):
                    self._clients.refused(client, len(asked))
                raise
            if was_idle := self._scheduler.idle:
                self._progress.arrived(self._clock())
            sequences = [Sequence(next(self._ids), request) for request, _ in asked]
            for sequence, (_, sink), its in zip(sequences, asked, completions, strict=True):
                sequence.group = sequences[0].id
                self._add(sequence, sink, its, timeout_s)
            self._wake.notify_all()
        if was_idle:
            self._on_work()
        for sink, event in leave:
            sink(event)
        return sequences

    def _make_way(self, asked: list[tuple[Request, Sink]], timeout_s: float | None) -> list[tuple[Sink, Event]]:
        """Sees whether they may wait; what it returns is to be told to those that had to leave for them."""
        client = asked[0][0].client
        limit, retry_after_s = self._scheduler.queue_limit, self._meter.retry_after_s(self._scheduler.kv.max_running)
        leave = self._scheduler.giving_way(client, len(asked))
        if leave is None:
            raise QueueFull(limit, retry_after_s, client)
        if timeout_s is not None and (late := self._lateness.of(asked[0][0], timeout_s, self._clock())):
            raise late
        prompt_tokens = [len(request.prompt) for request, _ in asked]
        self._clients.submitted(client, prompt_tokens, ends_in_s=retry_after_s)
        return [
            self._dismiss(each, QueueFull(limit, retry_after_s, each.request.client, gave_way=True)) for each in leave
        ]

    def _add(self, sequence: Sequence, sink: Sink, completion: Completion, timeout_s: float | None) -> None:
        now_s = self._clock()
        sequence.deadline_s = None if timeout_s is None else now_s + timeout_s
        sequence.new_tokens = self._scheduler.new_tokens(sequence.request)
        guesser = Guesser(sequence.request.prompt) if self._speculate else None
        self._live[sequence] = Live(completion, sink, now_s, guesser)
        self._scheduler.add(sequence)
        self._meter.request_arrived()
        self._requests.arrived(sequence)

    def cancel(self, sequence: Sequence) -> None:
        """Forgets `sequence` wherever it is; a second call, or one after its end, does nothing."""
        with self._wake:
            if self._forget(sequence, "cancelled") is not None:
                self._meter.cancelled()
                self._wake.notify_all()  # its slot is cleared by a step, also if nothing else is to do

    def limit_kv(self, tokens: int | None) -> None:
        """Promises at most `tokens` of KV from now on, None: the whole budget. What earlier requests left goes at once;
        those that run go on, and one may always run."""
        with self._wake:
            self._scheduler.kv.limit(tokens)
            self._wake.notify_all()  # rows are cleared by a step, also if nothing else is to do

    def step(self) -> None:
        """One turn of the loop."""
        step = self._schedule()
        ready = self._runner.run(step, self._live)
        picks = self._sample(ready)
        self._commit(step, picks)

    def stats(self) -> EngineStats:
        """A consistent reading."""
        with self._wake:
            return self._meter.stats(
                self._clock(),
                **self._scheduler.readings(),
                kv_bytes_per_token=self._spec.kv_bytes_per_token,
                draining=self._draining,
                failures_in_a_row=self._progress.failures,
                throttle=self._lowering.now,
            )

    def figures(self) -> RequestFigures:
        """What its requests took, one by one."""
        with self._wake:
            return self._requests.read()

    def _schedule(self) -> Step:
        with self._wake:
            self._step_began_s = now_s = self._clock()
            late = [self._dismiss(each, why) for each, why in self._lateness.now_and_then(now_s)]
            step = self._scheduler.schedule()
            if step.prefill and step.prefill.start == step.prefill.sequence.cached:
                sequence, live = step.prefill.sequence, self._live[step.prefill.sequence]
                live.started_s = now_s
                self._meter.prefill_started(sequence.cached)
                self._requests.started(now_s - live.arrived_s)
                self._clients.started(sequence.request.client)
        for sink, event in late:
            sink(event)
        return step

    def _sample(self, ready: list[Ready]) -> list[tuple[Ready, list[Pick]]]:
        picks: list[tuple[Ready, list[Pick]]] = []
        for row in ready:
            if live := self._live.get(row.sequence):
                try:
                    picks.append((row, picks_of(live, row)))
                except GrammarError as error:
                    self._fail(row.sequence, error)
        return picks

    def _commit(self, step: Step, picks: list[tuple[Ready, list[Pick]]]) -> None:
        """Notes what was computed, and delivers what came of it."""
        events: list[tuple[Sink, Event]] = []
        with self._wake:
            now_s = self._clock()
            if step.prefill:
                self._note_prefill(step, now_s)
            tokens, computed = Counter[str](), 0  # by client, and with what was guessed
            for row, its in picks:
                computed += 1 + len(row.guess)
                self._meter.guessed(len(row.guess), len(its) - 1)
                if live := self._live.get(row.sequence):
                    before = len(row.sequence.output)
                    events += ((live.sink, event) for event in self._accept(row.sequence, live, its, now_s))
                    tokens[row.sequence.request.client] += len(row.sequence.output) - before
            if tokens:
                self._clients.generated(tokens)
            self._meter.step(now_s, step.prefill.tokens if step.prefill else 0, tokens.total())
            self._note_progress(step, computed, now_s)
            if not self._live:
                self._wake.notify_all()
        for sink, event in events:
            sink(event)

    def _note_progress(self, step: Step, computed: int, now_s: float) -> None:
        """`computed` tokens were decoded, those that were guessed among them."""
        if not (step.prefill or step.decode):
            self._progress.rested(now_s)
            return
        self._progress.worked(now_s)
        if computed and not step.prefill and len({row.sequence.request.adapter for row in step.decode}) == 1:
            tokens_s = now_s - self._step_began_s
            self._meter.decoded(now_s, tokens_s / (1 + self._token_cost * (computed - 1)))

    def _note_prefill(self, step: Step, now_s: float) -> None:
        assert step.prefill is not None
        sequence, tokens = step.prefill.sequence, step.prefill.tokens
        self._clients.prefilled(sequence.request.client, tokens)
        if not step.prefill.last:
            self._pace.prefilled(now_s, now_s - self._step_began_s, tokens, beside=bool(step.decode))
        sequence.computed += tokens

    def _accept(self, sequence: Sequence, live: Live, picks: list[Pick], now_s: float) -> list[Event]:
        """Takes what was picked, up to where the completion ends."""
        if live.first_token_s is None:
            live.first_token_s = now_s
            self._meter.first_token(now_s, now_s - live.arrived_s)
        self._requests.tokens_came(live.arrived_s, live.last_tokens_s, now_s)
        live.last_tokens_s = now_s
        deltas: list[Delta] = []
        reason = None
        for pick in picks:
            sequence.output.append(pick.token)
            text, reason = live.completion.accept(pick, len(sequence.output))
            deltas.append(text)
            if reason is not None:
                break
        sequence.computed = sequence.prompt_tokens + len(sequence.output) - 1
        if live.guesser:
            live.guesser.accept(sequence.output[-len(deltas) :])
        delta = deltas[0] if len(deltas) == 1 else Delta.join(deltas)
        if reason is None:
            return [delta]
        self._forget(sequence, "finished", reason)
        self._meter.finished(now_s - live.arrived_s)
        self._meter.answered(now_s, len(sequence.output), now_s - live.first_token_s)
        return [delta, finished_of(sequence, live, reason, now_s)]

    def _loop(self) -> None:
        while self._wait_for_work():
            try:
                self._runner.keep_to(self._lowering)
                self.step()
                if self._scheduler.idle:
                    self._runner.rest()
            except Exception as error:  # whatever it is, those who wait must hear of it, and the next may work
                self._progress.failed(self._clock())
                self._requests.broken += len(self._live)
                self._fail_all(f"the engine failed: {str(error) or type(error).__name__}")
            self._rest()

    def _wait_for_work(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or not self._scheduler.idle)
            return not self._stopping

    def _rest(self) -> None:
        """Pauses after a step, if it is to. Requests are queued and cancelled meanwhile."""
        share = self._lowering.now.share
        if share < 1:
            seconds = self._lowering.rest_s(self._clock() - self._step_began_s)
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._lowering.now.share > share, seconds)
            self._progress.rested(self._clock())

    def _forget(self, sequence: Sequence, outcome: Outcome, reason: FinishReason | None = None) -> Live | None:
        """Takes a request out, wherever it is; None if it has ended before."""
        live = self._live.pop(sequence, None)
        if live is not None:
            now_s = self._clock()
            self._scheduler.remove(sequence, keep=outcome != "failed")
            self._clients.ended(sequence.request.client, started=live.started_s is not None)
            if live.started_s is not None:
                self._pace.released(now_s, now_s - live.started_s)
            self._requests.ended(live.ended(sequence, outcome, reason, now_s))
        return live

    def _dismiss(self, sequence: Sequence, why: EdgeQwenError) -> tuple[Sink, Event]:
        """Refuses a request that was let in; what it returns is to be told to it."""
        live = self._forget(sequence, "refused")
        assert live is not None
        self._meter.rejected()
        self._requests.dismissed(why)
        self._clients.refused(sequence.request.client, 1)
        return live.sink, Failed(str(why), why)

    def _fail(self, sequence: Sequence, error: EdgeQwenError) -> None:
        """Ends one request that cannot go on."""
        with self._wake:
            live = self._forget(sequence, "failed")
        if live is not None:
            live.sink(Failed(str(error), error))

    def _fail_all(self, message: str) -> None:
        with self._wake:
            failed = [live for sequence in list(self._live) if (live := self._forget(sequence, "failed"))]
            self._scheduler.kv.forget_warm()  # what the failed step left in any slot is not known
            self._wake.notify_all()
        for live in failed:
            live.sink(Failed(message))
