"""`edgeqwen-compile advise`: the largest model that fits a board and is fast enough, with the sum spelled out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from runtime.profile import builtin_profiles, find_profile
from toolchain.cli import main
from toolchain.sizing.advise import RECOMMENDED, Wish, advise, build_command, reads_of, room_of
from toolchain.sizing.models import TASKS, read_models
from toolchain.sizing.sizes import shape_of

PI = find_profile("raspberry-pi-5")
MODELS = read_models()
BENCH = {
    "model": "qwen2.5-0.5b-instruct-int4",
    "weights_bytes": 400_000_000,
    "cases": [
        {"prompt": 41, "tokens": 64, "streams": 1, "decode_tokens_per_second": 21.0},
        {"prompt": 656, "tokens": 64, "streams": 1, "decode_tokens_per_second": 20.0},
        {"prompt": 656, "tokens": 64, "streams": 4, "decode_tokens_per_second": 60.0},
    ],
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["advise", *arguments], prog_name="edgeqwen-compile")


def told(*arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run("--json", *arguments).stdout)
    return answer


def test_shapes_are_those_of_the_published_configs(shared: Path) -> None:
    """As far as there are any here."""
    for model in MODELS:
        config = shared / "models" / model.id.partition("/")[2] / "config.json"
        if config.is_file():
            assert shape_of(json.loads(config.read_bytes()), model.id) == model.shape


def test_every_task_has_models_of_their_name_and_size() -> None:
    """What the name says, a model has within a tenth or so."""
    for task in TASKS:
        assert [model for model in MODELS if model.task == task]
    for model in MODELS:
        billions = float(next(word for word in model.id.split("-") if word[0].isdigit()).removesuffix("B"))
        assert model.shape.parameters / 1e9 == pytest.approx(billions, rel=0.2)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", builtin_profiles())
def test_every_board_gets_an_answer_whose_sums_add_up(name: str, task: str) -> None:
    """As JSON and for people; a profile that nothing can be built for is refused, as `build` refuses it."""
    done = run("--profile", name, "--task", task)
    if find_profile(name).execution.unsupported:
        assert (done.exit_code, done.stdout) == (3, "")
        return
    answer = told("--profile", name, "--task", task)
    for option in answer["options"]:
        total = option["weights_bytes"] + option["kv_bytes"] + option["buffers_bytes"]
        assert option["total_bytes"] == total
        assert option["kv_bytes"] <= option["kv_bytes_per_token"] * option["context_tokens"] * option["rows"]
        assert option["model"] in done.stdout
    chosen = [option for option in answer["options"] if option["verdict"] == RECOMMENDED]
    assert chosen == ([answer["recommended"]] if answer["recommended"] else [])
    assert done.exit_code == (0 if chosen else 9)
    for option in chosen:
        assert option["total_bytes"] <= answer["room_bytes"] < answer["memory_bytes"]
        assert answer["command"] in done.stdout


@given(st.integers(0, 1 << 35), st.floats(0, 200), st.sampled_from(TASKS), st.floats(1, 500))
def test_what_is_recommended_fits_is_fast_enough_and_nothing_larger_is(
    room: int, min_speed: float, task: str, gb_s: float
) -> None:
    """All that was tried before it has a reason that says no."""
    device = PI.device.model_copy(update={"memory_gb_s": gb_s})
    board = PI.model_copy(update={"device": device})
    options = advise(board, MODELS, Wish(task, min_speed=min_speed, room_bytes=room), reads_of(board))
    sizes = [option.model.shape.parameters for option in options]
    assert sizes == sorted(sizes, reverse=True)
    chosen = [at for at, option in enumerate(options) if option.verdict == RECOMMENDED]
    assert len(chosen) <= 1
    for option in options[: chosen[0]] if chosen else options:
        assert option.verdict.startswith(("does not fit", "too slow", "its licence", "the profile's KV budget"))
    for at in chosen:
        best = options[at]
        assert best.speed is not None
        assert best.footprint.total_bytes <= room
        assert best.speed.tokens_per_s >= min_speed
        assert best.speed.kind == "predicted"


def test_as_many_rows_as_fit_are_recommended_and_what_is_asked_for_is_kept() -> None:
    """The command builds just that."""
    wish = Wish("reasoning", context_tokens=8192, room_bytes=2_000_000_000)
    option = next(each for each in advise(PI, MODELS, wish, None) if each.verdict == RECOMMENDED)
    its = option.footprint
    assert its.kv_bytes == its.kv_bytes_per_token * its.context_tokens * its.rows
    assert 1 <= its.rows <= PI.runtime.slots
    command = build_command(PI, "./my.yaml", option)
    assert f"--profile ./my.yaml --precision {option.precision} --context 8192" in command
    asked = advise(PI, MODELS, Wish("chat", rows=64), None)
    assert {each.footprint.rows for each in asked} == {64}


def test_without_a_bandwidth_speed_is_unknown_and_the_profiles_precision_is_tried_first() -> None:
    board = find_profile("generic-x86_64")
    options = advise(board, MODELS, Wish("chat"), reads_of(board))
    assert [each.precision for each in options[:2]] == ["int4", "int8"]
    assert {each.speed for each in options} == {None}
    assert "Speed is unknown and was not considered" in run("--profile", "generic-x86_64").stdout
    assert reads_of(find_profile("qualcomm-qcs6490")) is None


def test_what_was_measured_on_the_board_counts_more_than_its_makers_word(tmp_path: Path) -> None:
    """Of the model that was measured the speed is known; of the others it follows from the bytes that it read."""
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(BENCH))
    answer = told("--profile", "raspberry-pi-5", "--measured", str(file))
    assert answer["reads_bytes_per_second"] == 20 * 400_000_000
    speeds = {(each["model"], each["precision"]): each for each in answer["options"]}
    known = speeds["Qwen/Qwen2.5-0.5B-Instruct", "int4"]
    assert (known["tokens_per_second"], known["speed_is"]) == (20.0, "measured")
    other = speeds["Qwen/Qwen2.5-0.5B-Instruct", "int8"]
    assert other["speed_is"] == "predicted"
    assert other["tokens_per_second"] == pytest.approx(8e9 / (other["weights_bytes"] + 656 * 6144), abs=0.1)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cases": []}', json.dumps(BENCH | {"weights_bytes": "many"})])
def test_what_is_no_measurement_is_one_line_and_1(content: str, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(content)
    done = run("--profile", "raspberry-pi-5", "--measured", str(file))
    assert (done.exit_code, done.stderr.count("\n"), done.stdout) == (1, 1, "")


def test_a_licence_that_does_not_allow_every_use_is_taken_only_when_asked() -> None:
    asked = ("--profile", "jetson-agx-orin", "--min-speed", "1")
    assert told(*asked)["recommended"]["model"] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert told(*asked, "--any-licence")["recommended"]["model"] == "Qwen/Qwen2.5-3B-Instruct"


def test_where_nothing_fits_the_table_says_why_and_the_last_line_what_to_do() -> None:
    done = run("--profile", "raspberry-pi-4", "--max-memory", "100MB")
    assert done.exit_code == 9
    assert "does not fit: " in done.stdout
    assert done.stderr == (
        "edgeqwen-compile: no chat model suits raspberry-pi-4: try a shorter --context, fewer --rows, a lower"
        " --min-speed or another --task\n"
    )


def test_the_system_keeps_a_part_of_the_memory() -> None:
    """Half a GiB, or an eighth where that is more."""
    assert room_of(find_profile("raspberry-pi-4")) == (2048 - 512) << 20
    assert room_of(find_profile("jetson-agx-orin")) == (32768 - 4096) << 20
