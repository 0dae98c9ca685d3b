"""Models at run time: loaded, swapped and unloaded by a real daemon, while it answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from integration.daemons import Daemon, start

from edgeqwen.cli import main
from edgeqwen.client import Client, ClientError, Options
from runtime.package import Package

pytestmark = pytest.mark.slow

GREEDY = Options(max_tokens=24, temperature=0.0, ignore_eos=True, deterministic=True)
QUESTION = "How many days are in a week?"


@pytest.fixture(scope="module")
def daemon(int4_package: Path, float_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Serves the INT4 package out of a folder that has the float one too."""
    folder = tmp_path_factory.mktemp("packages")
    for package in (int4_package, float_package):
        (folder / package.name).symlink_to(package)
    with start(folder / int4_package.name, "--no-verify") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def int4(int4_package: Path) -> str:
    return Package.open(int4_package, verify=False).build.name


@pytest.fixture(scope="module")
def whole(float_package: Path) -> str:
    """The name of the float model."""
    return Package.open(float_package, verify=False).build.name


def run(daemon: Daemon, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--target", daemon.target, *arguments])


def states(daemon: Daemon) -> dict[str, str]:
    return {each["name"]: each["state"] for each in json.loads(run(daemon, "models", "--json").stdout)}


def rss_bytes(client: Client) -> int:
    return client.snapshot().process.rss_bytes


def test_a_model_is_loaded_beside_asked_by_name_and_unloaded(daemon: Daemon, int4: str, whole: str) -> None:
    """Each answers as when it is alone; a script may say everything twice, and is told what is not there."""
    with Client(daemon.target) as client:
        alone = client.chat([("user", QUESTION)], options=GREEDY)
        assert states(daemon) == {int4: "ready", whole: "available"}
        for _ in range(2):
            done = run(daemon, "models", "load", whole)
            assert (done.exit_code, done.stdout) == (0, f"{whole} answers\n")
        assert states(daemon) == {int4: "ready", whole: "ready"}
        by_name = client.chat([("user", QUESTION)], options=Options(**{**vars(GREEDY), "model": whole}))
        assert client.chat([("user", QUESTION)], options=GREEDY).token_ids == alone.token_ids != by_name.token_ids
        assert [each.model.name for each in client.snapshot().models] == [int4, whole]
        assert run(daemon, "models", "unload", whole).exit_code == 0
        refused = run(daemon, "chat", "--model", whole, "hello")
        assert refused.exit_code == 4
        assert refused.stderr == f"edgeqwen: no model of that name is loaded; there are: {int4}\n"


def test_a_swap_under_load_loses_nothing(daemon: Daemon, int4: str, whole: str) -> None:
    """Clients that ask all the time get whole answers, of the old model and then of the new one, and no refusal."""
    faults: list[ClientError] = []
    names: list[str] = []
    over = threading.Event()

    def ask() -> None:
        with Client(daemon.target) as client:
            while not over.is_set():
                try:
                    started, *_, end = client.generate(prompt="One, two,", options=GREEDY)
                except ClientError as error:
                    faults.append(error)
                    return
                assert end.completion_tokens == 24
                names.append(started.model)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for package, old in ((whole, int4), (int4, whole)):
            assert run(daemon, "models", "load", package, "--replace", old).exit_code == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert {int4, whole} == set(names)
    assert names[-1] == int4
    assert states(daemon) == {int4: "ready", whole: "available"}


def test_memory_of_what_was_unloaded_comes_back(daemon: Daemon, whole: str) -> None:
    """Not only once: a model that comes and goes leaves nothing behind."""
    with Client(daemon.target) as client:
        client.chat([("user", QUESTION)], options=GREEDY)
        sizes = []
        for _ in range(4):
            list(client.load_model(whole))
            with_both = rss_bytes(client)
            client.unload_model(whole)
            sizes.append(rss_bytes(client))
            assert with_both - sizes[-1] > 100e6
    assert max(sizes[1:]) - sizes[0] < 30e6
