"""Configuration, else what was measured, else the profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from unit.runtime.tiny_package import edit_build, make_package

from runtime.board.cpu import Cpu
from runtime.board.localsettings import LocalSettings, LocalSettingsFile, describe_packed
from runtime.board.tuning import Threads
from runtime.configuration.config import Config
from runtime.configuration.settings import RunSettings, decide
from runtime.engine.speculation import TOKEN_COST
from runtime.errors import ConfigError
from runtime.package import Package
from runtime.profile import Execution, KVCache, find_profile

CPU = Cpu("a", (1, 1, 1, 1))


class Board:
    def __init__(self, folder: Path, profile: str = "generic-x86_64") -> None:
        make_package(folder / "p")  # its profile: 2 threads, 8 slots
        edit_build(folder / "p", {"profile": find_profile(profile).model_dump()})
        self.package = Package.open(folder / "p")
        self.file = LocalSettingsFile(folder, self.package.build_digest, CPU)

    def local(self, packed: Threads | None = None) -> LocalSettings:
        graph = None
        if packed:
            self.file.require_writable()
            graph = describe_packed(self.file.make_folder() / "serving.onnx", packed)
        return LocalSettings(
            build_digest=self.package.build_digest, cpu=CPU.identity, threads=3, slots=5, token_cost=0.3, packed=graph
        )

    def decide(self, local: LocalSettings | None, *, cores: int = 4, **config: object) -> RunSettings:
        whole = Config.model_validate({"package": self.package.root, **config})
        return decide(whole, self.package, self.file, local, cores)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("threads", [None, 1])
@pytest.mark.parametrize("slots", [None, 1])
def test_each_setting_comes_from_the_highest_that_has_it(
    board: Board, measured: bool, threads: int | None, slots: int | None
) -> None:
    """And says from where; the cost of a token is measured or assumed, as nobody sets it."""
    found = board.decide(board.local() if measured else None, threads=threads, slots=slots)
    below = "local settings" if measured else "profile"
    assert found.prefill_threads == found.decode_threads == (threads or (3 if measured else 2))
    assert found.threads_from == ("configuration" if threads else below)
    assert found.slots == (slots or (5 if measured else 8))
    assert found.slots_from == ("configuration" if slots else below)
    assert found.token_cost == (0.3 if measured else TOKEN_COST)
    assert found.graph == board.package.serving_graph


def test_two_numbers_of_threads_go_with_their_graph(board: Board) -> None:
    """Who sets one number gets it, and the package's own graph."""
    local = board.local(packed=Threads(4, 2))
    found = board.decide(local)
    assert (found.prefill_threads, found.decode_threads) == (4, 2)
    assert found.graph == board.file.packed_graph(local.packed)  # type: ignore[arg-type]
    found = board.decide(local, threads=4)
    assert (found.prefill_threads, found.decode_threads, found.graph) == (4, 4, board.package.serving_graph)


def test_a_profile_is_for_boards_with_all_their_cores(board: Board) -> None:
    """Fewer cores, fewer threads."""
    assert board.decide(None, cores=1).decode_threads == 1


def test_rows_for_what_requests_leave(board: Board) -> None:
    """As many again as may run, unless nothing may be shared."""
    assert board.decide(None, slots=3).session_slots == 6
    assert board.decide(None, slots=3, share_prefix="off").session_slots == 3


def on_a_gpu(board: Board, budget_mb: int) -> None:
    """Makes the package, whose contexts are of 8 tokens, one for CUDA with as much memory for KV."""
    build = board.package.build
    kv_cache = KVCache.model_construct(dtype="float16", budget_mb=budget_mb)
    profile = build.profile.model_copy(
        update={
            "execution": Execution(provider="CUDAExecutionProvider"),
            "runtime": build.profile.runtime.model_copy(update={"kv_cache": kv_cache}),
        }
    )
    memory = build.memory.model_copy(update={"kv_bytes_per_token": 1 << 17})  # 1 MiB a row
    build = build.model_copy(update={"profile": profile, "memory": memory})
    board.package = replace(board.package, build=build)


@pytest.mark.parametrize(("budget_mb", "slots", "session_slots"), [(64, 8, 16), (11, 8, 11), (5, 5, 5)])
def test_a_gpus_rows_fit_its_budget(board: Board, budget_mb: int, slots: int, session_slots: int) -> None:
    """Its memory is taken for all of them at once: first those go that would only hold what requests left."""
    on_a_gpu(board, budget_mb)
    found = board.decide(None)
    assert (found.slots, found.session_slots) == (slots, session_slots)


def test_a_gpu_without_room_for_one_row_is_refused(board: Board) -> None:
    """With the context that would fit."""
    on_a_gpu(board, 0)
    with pytest.raises(ConfigError, match="context_tokens: a row of 8 tokens takes 1 MiB"):
        board.decide(None)


def test_an_npu_has_one_row_whatever_may_be_shared(tmp_path: Path) -> None:
    """A prompt takes over what the row holds; more rows are refused, and so is whoever asks for them."""
    board = Board(tmp_path, "qualcomm-qcs6490")
    found = board.decide(None, share_prefix="all")
    assert (found.slots, found.session_slots) == (1, 1)
    with pytest.raises(ConfigError, match=r"slots: must be 1, QNN.* runs one at a time \(got 2\)"):
        board.decide(None, slots=2)


@pytest.mark.parametrize("measured", [False, True])
def test_a_backend_of_one_row_has_one(tmp_path: Path, measured: bool) -> None:
    """And none for what requests leave, whatever was measured on a board that had more."""
    board = Board(tmp_path, "intel-core-ultra-npu")
    found = board.decide(board.local() if measured else None)
    assert (found.device, found.one_row, found.slots, found.session_slots) == ("NPU", True, 1, 1)
    assert found.graph.name == "openvino_model.xml"
    with pytest.raises(ConfigError, match=r"slots: must be 1, OpenVINO \(NPU\) runs one at a time \(got 2\)"):
        board.decide(None, slots=2)


def test_optimums_graph_has_one_row(tmp_path: Path) -> None:
    """Whatever the profile, which is one of many rows, or what was measured says."""
    board = Board(tmp_path)
    edit_build(board.package.root, {"exporter": "optimum"})
    (board.package.variant_dir / "model.onnx").write_bytes(b"graph")
    board.package = Package.open(board.package.root)
    found = board.decide(board.local())
    assert (found.one_row, found.slots, found.session_slots, found.graph.name) == (True, 1, 1, "model.onnx")
    with pytest.raises(ConfigError, match=r"slots: must be 1, CPU.* \(Optimum's graph, slower\) runs one at a time"):
        board.decide(None, slots=2)


@pytest.mark.parametrize(
    ("profile", "device", "slots"),
    [("openvino-x86_64", None, 8), ("openvino-x86_64", "GPU", 1), ("intel-core-ultra-npu", "CPU", 1)],
)
def test_another_device_than_the_profiles_has_one_row(
    tmp_path: Path, profile: str, device: str | None, slots: int
) -> None:
    """A package for the NPU runs on the CPU as it does on the NPU, and only its own device has many rows."""
    found = Board(tmp_path, profile).decide(None, device=device)
    assert (found.device, found.slots) == (device or "CPU", slots)


def test_a_device_is_for_packages_that_have_devices(board: Board) -> None:
    """It is not ignored where it means nothing."""
    with pytest.raises(ConfigError, match="device: is for packages of OpenVINO, and this one runs on CPUExecution"):
        board.decide(None, device="GPU")
