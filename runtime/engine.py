"""The engine: one thread that admits, schedules, runs, samples and commits, step after step.

`submit` and `cancel` may be called from any thread. Everything they share with the engine's thread is changed under one
lock; the model runs, and events are delivered, outside it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .completion import Completion, Pick
from .errors import Fault, GrammarError, QueueFull, RequestError, Unavailable
from .kvcache import KVCache
from .observer import Ended, Observer, Outcome
from .request_meter import RequestFigures, RequestMeter
from .scheduler import Decode, Prefill, Scheduler, Step
from .sequence import Delta, Event, Failed, Finished, FinishReason, Request, Sequence, Timings, Usage
from .session import Chunk, Logits, Session
from .speculation import MAX_GUESS, TOKEN_COST, Guesser, choose_widths
from .stats import EngineStats, Meter
from .tokenizer import Tokenizer

Sink = Callable[[Event], None]


@dataclass(eq=False)
class _Live:
    """A request that has not ended: its text side, where its events go, and when things happened (seconds)."""

    completion: Completion
    sink: Sink
    arrived_s: float
    guesser: Guesser | None
    started_s: float | None = None
    first_token_s: float | None = None
    last_tokens_s: float = 0.0


@dataclass(frozen=True)
class _Ready:
    """What a step computed for one sequence: logits after its last token, and after each of the tokens guessed next."""

    sequence: Sequence
    logits: Logits
    guess: tuple[int, ...] = ()


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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._clock = clock
        self._many_logits = session.spec.many_logits
        self._speculate = speculate and self._many_logits
        self._token_cost = token_cost
        self._scheduler = Scheduler(
            KVCache(session.spec.slots, kv_budget_tokens, max_running=max_running),
            queue_limit=queue_limit,
            prefill_chunk_tokens=prefill_chunk_tokens,
            token_cost=token_cost,
        )
        self._live: dict[Sequence, _Live] = {}
        self._ids = ids or itertools.count(1)
        self._meter = Meter()
        self._requests = RequestMeter()
        self._observer = Observer()
        self._draining = False
        self._stopping = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    @property
    def context_tokens(self) -> int:
        """The most tokens of a prompt and its completion together: of the context, and of the KV budget."""
        return min(self._session.spec.context_tokens, self._scheduler.kv.budget_tokens)

    @property
    def vocab_size(self) -> int:
        return self._session.spec.vocab_size

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or running."""
        with self._wake:
            return not self._live

    def observe(self, observer: Observer) -> None:
        """From now on `observer` hears of its requests. To be called before `start`."""
        self._observer = observer

    def wait_idle(self, timeout_s: float) -> bool:
        """Blocks until nothing is queued or running; False if that takes longer than `timeout_s`."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._live, timeout_s)

    def start(self) -> None:
        """Starts the engine's thread."""
        self._thread.start()

    def drain(self) -> None:
        """Refuses new requests from now on; those accepted go on to their end."""
        with self._wake:
            self._draining = True

    def stop(self, reason: str = "the daemon stopped before the request had ended") -> None:
        """Ends the thread after its current step. Requests that had not ended get `Failed` with `reason`."""
        with self._wake:
            self._draining = self._stopping = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._fail_all(reason)

    def submit(self, request: Request, sink: Sink) -> Sequence:
        """Queues `request`. `sink` gets its events on the engine's thread and must not block.

        Raises QueueFull, or Unavailable while draining.
        """
        return self.submit_all([(request, sink)])[0]

    def submit_all(self, asked: list[tuple[Request, Sink]]) -> list[Sequence]:
        """Queues all of them, one behind the other, or none.

        Raises as `submit` does, and RequestError for more than the queue ever has room for.
        """
        most = self._scheduler.queue_limit + self._scheduler.kv.max_running
        if len(asked) > most:
            raise RequestError([Fault("n", f"must be at most {most}, as many as wait and run here (got {len(asked)})")])
        completions = []
        for request, _ in asked:
            assert len(request.prompt) > 0
            assert 0 < request.max_tokens <= self.context_tokens - len(request.prompt)
            completions.append(Completion(request, self._tokenizer, self._eos_token_ids, self.vocab_size))
        with self._wake:
            if self._draining:
                raise Unavailable("the daemon is shutting down; send the request to another one")
            if self._scheduler.room < len(asked):
                self._meter.rejected()
                self._refuse(asked[0][0], "queue_full")
                raise QueueFull(self._scheduler.queue_limit, self._retry_after_s())
            sequences = [self._add(each, sink, its) for (each, sink), its in zip(asked, completions, strict=True)]
            self._wake.notify_all()
        return sequences

    def _add(self, request: Request, sink: Sink, completion: Completion) -> Sequence:
        sequence = Sequence(next(self._ids), request)
        guesser = Guesser(request.prompt) if self._speculate else None
        self._live[sequence] = _Live(completion, sink, self._clock(), guesser)
        self._scheduler.add(sequence)
        self._meter.request_arrived()
        self._observer.arrived(sequence)
        return sequence

    def _refuse(self, request: Request, reason: str) -> None:
        self._requests.refused(reason)
        self._observer.refused(request, reason)

    def cancel(self, sequence: Sequence) -> None:
        """Forgets `sequence` wherever it is; a second call, or one after its end, does nothing."""
        with self._wake:
            if self._forget(sequence, "cancelled", self._clock()) is not None:
                self._meter.cancelled()
                self._wake.notify_all()  # its slot is cleared by a step, also if nothing else is to do

    def step(self) -> None:
        """One turn of the loop."""
        step = self._schedule()
        ready = self._run(step)
        picks = self._sample(ready)
        self._commit(step, picks)

    def stats(self) -> EngineStats:
        """A consistent reading."""
        with self._wake:
            scheduler, kv = self._scheduler, self._scheduler.kv
            return self._meter.stats(
                self._clock(),
                queue_depth=len(scheduler.waiting),
                queue_limit=scheduler.queue_limit,
                running=len(kv.running),
                slots=kv.max_running,
                kv_used_tokens=kv.used_tokens,
                kv_warm_tokens=kv.warm_tokens,
                kv_reserved_tokens=kv.reserved_tokens,
                kv_budget_tokens=kv.budget_tokens,
                kv_bytes_per_token=self._session.spec.kv_bytes_per_token,
                draining=self._draining,
            )

    def figures(self) -> RequestFigures:
        """What its requests took, one by one."""
        with self._wake:
            return self._requests.read()

    def _schedule(self) -> Step:
        with self._wake:
            step = self._scheduler.schedule()
            if step.prefill and step.prefill.start == step.prefill.sequence.cached:
                live = self._live[step.prefill.sequence]
                live.started_s = self._clock()
                self._meter.prefill_started(step.prefill.sequence.cached)
                self._requests.started(live.started_s - live.arrived_s)
            return step

    def _run(self, step: Step) -> list[_Ready]:
        """Runs the model, for each sequence that gets tokens now."""
        for clear in step.clear:
            self._session.clear(clear.slot, clear.keep)
        if copy := step.copy:
            self._session.copy(copy.source, copy.target, copy.tokens)
        runs = step.runs
        return [each for rows in runs for each in self._compute(rows, keep=rows is not runs[-1])]

    def _compute(self, rows: list[Prefill | Decode], *, keep: bool) -> list[_Ready]:
        """One run, of one adapter: a chunk of a prompt, and of rows that decode the last token and what is guessed to
        follow it. With `keep`, the logits outlive the next run."""
        guesses = self._guesses([row for row in rows if isinstance(row, Decode)])
        chunks = [_chunk(row, guesses.get(row.sequence, ())) for row in rows]
        logits = self._session.run(
            chunks,
            adapter=rows[0].sequence.request.adapter,
            deterministic=any(map(self._must_be_exact, rows)),
        )
        if keep:
            logits = logits.copy()
        ends = itertools.accumulate(chunk.logits for chunk in chunks)
        return [
            _Ready(row.sequence, logits[end - chunk.logits : end], guesses.get(row.sequence, ()))
            for row, chunk, end in zip(rows, chunks, ends, strict=True)
            if chunk.logits
        ]

    def _guesses(self, rows: list[Decode]) -> dict[Sequence, tuple[int, ...]]:
        """For each row the tokens that must follow, or the part of its guess that is worth computing now.

        What is computed for one token rounds in another way than for several: rows that must be exact compute one.
        """
        guesses: dict[Sequence, tuple[int, ...]] = {}
        offers: list[tuple[Sequence, Guesser, int]] = []
        for sequence in (row.sequence for row in rows if not self._must_be_exact(row)):
            if live := self._live.get(sequence):
                useful = sequence.request.max_tokens - len(sequence.output) - 1
                if self._many_logits and (forced := live.completion.forced[: min(useful, MAX_GUESS)]):
                    guesses[sequence] = forced
                elif live.guesser and (guess := live.guesser.guess[:useful]):
                    offers.append((sequence, live.guesser, len(guess)))
        tokens = len(rows) + sum(map(len, guesses.values()))
        widths = choose_widths([offer[1:] for offer in offers], tokens=tokens, token_cost=self._token_cost)
        for (sequence, guesser, _), width in zip(offers, widths, strict=True):
            guesses[sequence] = guesser.guess[:width]
        return guesses

    def _must_be_exact(self, row: Prefill | Decode) -> bool:
        """Whether what is computed beside it must not matter. Where one runs at a time, nothing ever is."""
        return row.sequence.request.deterministic and self._scheduler.kv.max_running > 1

    def _sample(self, ready: list[_Ready]) -> list[tuple[_Ready, list[Pick]]]:
        picks: list[tuple[_Ready, list[Pick]]] = []
        for row in ready:
            if live := self._live.get(row.sequence):
                try:
                    picks.append((row, _picks(live, row)))
                except GrammarError as error:
                    self._fail(row.sequence, str(error))
        return picks

    def _commit(self, step: Step, picks: list[tuple[_Ready, list[Pick]]]) -> None:
        """Notes what was computed, and delivers what came of it."""
        events: list[tuple[Sink, Event]] = []
        with self._wake:
            now_s = self._clock()
            if step.prefill:
                step.prefill.sequence.computed += step.prefill.tokens
            tokens = 0
            for row, its in picks:
                self._meter.guessed(len(row.guess), len(its) - 1)
                if live := self._live.get(row.sequence):
                    before = len(row.sequence.output)
                    events += ((live.sink, event) for event in self._accept(row.sequence, live, its, now_s))
                    tokens += len(row.sequence.output) - before
            self._meter.step(now_s, step.prefill.tokens if step.prefill else 0, tokens)
            if not self._live:
                self._wake.notify_all()
        for sink, event in events:
            sink(event)

    def _accept(self, sequence: Sequence, live: _Live, picks: list[Pick], now_s: float) -> list[Event]:
        """Takes what was picked, up to where the completion ends."""
        if live.first_token_s is None:
            live.first_token_s = now_s
            self._meter.first_token(now_s, now_s - live.arrived_s)
            self._requests.first_token(now_s - live.arrived_s)
        else:
            self._requests.more_tokens(now_s - live.last_tokens_s)
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
        self._forget(sequence, "finished", now_s, reason)
        self._meter.finished(now_s - live.arrived_s)
        return [delta, _finished(sequence, live, reason, now_s)]

    def _loop(self) -> None:
        while self._wait_for_work():
            try:
                self.step()
            except Exception as error:  # whatever it is, those who wait must hear of it, and the next may work
                self._fail_all(f"the engine failed: {str(error) or type(error).__name__}")

    def _wait_for_work(self) -> bool:
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or not self._scheduler.idle)
            return not self._stopping

    def _forget(
        self, sequence: Sequence, outcome: Outcome, now_s: float, reason: FinishReason | None = None
    ) -> _Live | None:
        """Takes a request out, wherever it is; None if it has ended before."""
        live = self._live.pop(sequence, None)
        if live is not None:
            self._scheduler.remove(sequence, keep=outcome != "failed")
            ended = Ended(sequence, outcome, reason, live.arrived_s, live.started_s, live.first_token_s, now_s)
            self._requests.ended(ended)
            self._observer.ended(ended)
        return live

    def _fail(self, sequence: Sequence, message: str) -> None:
        """Ends one request that cannot go on."""
        with self._wake:
            live = self._forget(sequence, "failed", self._clock())
        if live is not None:
            live.sink(Failed(message))

    def _fail_all(self, message: str) -> None:
        with self._wake:
            now_s = self._clock()
            failed = [live for sequence in list(self._live) if (live := self._forget(sequence, "failed", now_s))]
            self._scheduler.kv.forget_warm()  # what the failed step left in any slot is not known
            self._wake.notify_all()
        for live in failed:
            live.sink(Failed(message))

    def _retry_after_s(self) -> float:
        """When a slot is likely to be free: the recent mean duration over the rows that share it."""
        return min(60.0, max(0.1, self._meter.mean_duration_s / self._scheduler.kv.max_running))


def _chunk(row: Prefill | Decode, guess: tuple[int, ...]) -> Chunk:
    """What a run computes of it."""
    sequence = row.sequence
    if isinstance(row, Decode):
        return Chunk(row.slot, (sequence.output[-1], *guess), sequence.computed, logits=1 + len(guess))
    tokens = sequence.request.prompt[row.start : row.start + row.tokens]
    return Chunk(row.slot, tokens, row.start, logits=int(row.last))


def _picks(live: _Live, row: _Ready) -> list[Pick]:
    """Samples a token, and one more for as long as they are those that were guessed."""
    picks: list[Pick] = []
    for logits, guessed in itertools.zip_longest(row.logits, row.guess):
        picks.append(live.completion.pick(logits))
        if picks[-1].token != guessed or picks[-1].complete:
            break
    return picks


def _finished(sequence: Sequence, live: _Live, reason: FinishReason, now_s: float) -> Finished:
    assert live.started_s is not None
    assert live.first_token_s is not None
    prefill_s = max(live.first_token_s - live.started_s, 1e-9)
    decode_s = max(now_s - live.first_token_s, 1e-9)
    return Finished(
        reason=reason,
        usage=Usage(sequence.prompt_tokens, len(sequence.output), sequence.cached),
        timings=Timings(
            queue_ms=(live.started_s - live.arrived_s) * 1e3,
            time_to_first_token_ms=(live.first_token_s - live.arrived_s) * 1e3,
            total_ms=(now_s - live.arrived_s) * 1e3,
            prefill_tokens_per_second=(sequence.prompt_tokens - sequence.cached) / prefill_s,
            decode_tokens_per_second=(len(sequence.output) - 1) / decode_s,
        ),
        stop=live.completion.stop if reason is FinishReason.STOP else None,
    )
