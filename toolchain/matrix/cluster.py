"""The workers of a matrix: processes of this machine, or those of a Dask scheduler somewhere else."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster, Security
from distributed.comm.core import connect

from runtime.errors import BuildError

from .versions import all_versions, differences
from .worker import describe_worker

_ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d{1,5}")
_TALKS = ("asyncio", "distributed", "tornado")
_LOCAL = {
    "distributed.scheduler.allowed-failures": 0,  # who waits counts tries, and only of jobs that had begun
    "distributed.scheduler.http.routes": [],
    "distributed.scheduler.work-stealing": True,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
}


@dataclass(frozen=True)
class Workers:
    """Those that there are.

    Args:
        cores: which each may use, by its name, where they have to be shared.
    """

    client: Client
    cores: Mapping[object, tuple[int, ...]] = field(default_factory=dict)


def shares_of(cores: Sequence[int], workers: int) -> dict[object, tuple[int, ...]]:
    """Cores for each of the workers, by name. Where there are fewer than workers, they are used together."""
    return {name: tuple(cores[name % len(cores) :: workers]) for name in range(workers)}


@contextmanager
def local_workers(count: int) -> Iterator[Workers]:
    """Processes that end with the block, and with this process however it ends.

    They speak TLS among each other, with a certificate that is nowhere on disk: whoever reaches a scheduler can have it
    run anything, and loopback is open to every user of the machine.
    """
    with tempfile.TemporaryDirectory(prefix="edgeqwen-matrix-") as scratch, dask.config.set(_LOCAL), _quiet():
        with _interrupts_wait():  # workers inherit that, and so an interrupt from a terminal ends this process only
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                memory_limit=0,  # builds are processes of their own
                host="127.0.0.1",
                security=True,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                dashboard_address=None,
                local_directory=scratch,
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster) as client:
            yield Workers(client, shares_of(sorted(os.sched_getaffinity(0)), count))


@contextmanager
def cluster_workers(address: str, *, patience_s: float = 15) -> Iterator[Workers]:
    """Those of the scheduler at `address`, such as tcp://build.example:8786.

    Raises BuildError if nobody answers for so long, if there are no workers, and if one of them builds with other
    versions than are here, or several packages at once.
    """
    _require_usable(address)
    with _quiet():
        try:
            asyncio.run(_greet(address, patience_s))
            client = Client(address, timeout=patience_s, set_as_default=False)
        except TimeoutError as error:
            raise BuildError(f"no Dask scheduler answers at {address} within {patience_s:g} s") from error
        except Exception as error:  # whatever Dask makes of what another server says
            raise BuildError(f"no Dask scheduler answers at {address}: {_line(error)}") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=patience_s)
            except TimeoutError as error:
                start = f"dask worker {address} --nthreads 1"
                raise BuildError(f"the scheduler at {address} has no workers: start some with `{start}`") from error
            if faults := list(_faults(client)):
                raise BuildError("; ".join(faults))
            yield Workers(client)


async def _greet(address: str, patience_s: float) -> None:
    """Dask waits for ever for an answer from who took its connection."""
    security = Security().get_connection_args("client")
    comm = await asyncio.wait_for(connect(address, **security), patience_s)
    await comm.close()


def _require_usable(address: str) -> None:
    """Raises BuildError for what Dask would only complain of in the middle of its work."""
    found = _ADDRESS.fullmatch(address)
    if not found:
        raise BuildError(f"a scheduler's address looks like tcp://HOST:PORT or tls://HOST:PORT (got {address!r})")
    if found[1] == "tls":
        try:
            security = Security().get_connection_args("client")
        except OSError as error:
            raise BuildError(f"the certificates of Dask's configuration cannot be read: {_line(error)}") from error
        if security["ssl_context"] is None:
            raise BuildError("tls:// needs certificates: set distributed.comm.tls in Dask's configuration")


def _faults(client: Client) -> Iterator[str]:
    """What is wrong with the processes of a cluster. The scheduler unpacks jobs, too."""
    here = all_versions()
    found: dict[str, Any]
    try:
        found = {"the scheduler": {"threads": 1, "versions": client.run_on_scheduler(all_versions)}}
    except Exception as error:  # whatever unpacking raises there
        found = {"the scheduler": error}
    found |= dict(sorted(client.run(describe_worker, on_error="return").items()))
    for name, said in found.items():
        if isinstance(said, Exception):
            yield f"{name} has not the same edgeqwen with its extra `matrix`: {_line(said)}"
        elif said["threads"] != 1:
            yield f"{name} would build {said['threads']} packages at once: start it with --nthreads 1"
        elif different := differences(here, said["versions"]):
            yield f"{name} is not as this machine is: {different}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Dask logs what this reports in its own words."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _TALKS]
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """SIGINT comes after the block. Processes and threads that begin in it never get one."""
    resource_tracker.ensure_running()  # or the first process would begin it, which unblocks the signal in that thread
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
