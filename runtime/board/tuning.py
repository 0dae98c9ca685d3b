"""Decides how a board should run a model, from what was measured on it. Measures nothing itself.

Rates are tokens/s and times are seconds, each by round; what counts is the median of the rounds. A difference of less
than SLACK is not one: the machine may have been busy with something else, and fewer threads leave more to others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Rounds = Mapping[int, Sequence[float]]
"""By number of threads, rows or tokens: what each round measured."""

SLACK = 0.03
MAX_THREADS = 256
PROMPT_TOKENS, ANSWER_TOKENS = 256, 128
"""Of the request that a common number of threads should suit best."""
_SEPARATE_PAYS = 0.05  # of the time of such a request; less is not worth a second copy of the weights on disk
_MAX_ROWS = 16
_ROW_TOKENS = 256  # that a row should have in the KV budget, if all are taken


@dataclass(frozen=True)
class Threads:
    """Of a run that computes a chunk of a prompt, and of one that computes the next tokens."""

    prefill: int
    decode: int


def thread_candidates(capacities: Sequence[int]) -> tuple[int, ...]:
    """Which numbers of threads are worth measuring, ascending, for cores of these capacities.

    Up to eight all of them; above, fewer and fewer, all cores, and the cores of each speed and above.
    """
    cores = len(capacities)
    some = {count for count in (*range(1, 9), 12, 16, 24, 32, 48, 64, 96, 128, 192, 256) if count <= cores}
    faster = {sum(each >= kind for each in capacities) for kind in set(capacities)}
    return tuple(sorted(count for count in some | faster | {cores} if count <= MAX_THREADS))


def row_candidates(kv_budget_tokens: int) -> tuple[int, ...]:
    """Which numbers of batch rows are worth measuring, ascending: those that the KV budget has room for."""
    most = max(1, min(_MAX_ROWS, kv_budget_tokens // _ROW_TOKENS))
    return tuple(count for count in (1, 2, 3, 4, 6, 8, 12, 16) if count <= most)


def choose_threads(prefill: Rounds, decode: Rounds) -> Threads:
    """The numbers of threads for both kinds of runs; the same for both unless another for each pays.

    Args:
        prefill: tokens/s by number of threads.
        decode: the same of one stream, for the same numbers.
    """
    common = choose_common(prefill, decode)
    apart = Threads(fewest_near_best(_seconds(prefill)), fewest_near_best(_seconds(decode)))
    if _request_s(prefill, decode, apart) < (1 - _SEPARATE_PAYS) * _request_s(prefill, decode, common):
        return apart
    return common


def choose_common(prefill: Rounds, decode: Rounds) -> Threads:
    """The one number of threads under which a request of PROMPT_TOKENS and ANSWER_TOKENS takes the least time."""
    alike = {count: Threads(count, count) for count in prefill}
    return alike[fewest_near_best({count: _request_s(prefill, decode, both) for count, both in alike.items()})]


def _request_s(prefill: Rounds, decode: Rounds, threads: Threads) -> float:
    return PROMPT_TOKENS / median(prefill[threads.prefill]) + ANSWER_TOKENS / median(decode[threads.decode])


def _seconds(rates: Rounds) -> dict[int, float]:
    """Of a token."""
    return {count: 1 / median(its) for count, its in rates.items()}


def fewest_near_best(times: Mapping[int, float]) -> int:
    """The lowest key whose time is within SLACK of the shortest."""
    limit = min(times.values()) * (1 + SLACK)
    return min(count for count, time in times.items() if time <= limit)


def rows_that_pay(totals: Rounds) -> int:
    """The fewest rows that give about the most tokens/s: more would make every stream slower, and all no faster.

    Args:
        totals: tokens/s of all rows together, by number of rows.
    """
    return fewest_near_best(_seconds(totals))


def token_cost(times: Rounds) -> float:
    """What a further token in a step costs, against a step with one: the median over the widths, from 0.01 to 1.

    Args:
        times: seconds of a step by how many tokens it computes; 1 is among them.
    """
    alone = median(times[1])
    slopes = [(median(its) / alone - 1) / (width - 1) for width, its in times.items() if width > 1]
    return round(min(1.0, max(0.01, median(slopes))), 3)
