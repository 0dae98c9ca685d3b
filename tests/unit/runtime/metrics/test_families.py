"""The page of metrics: true, complete, and what Prometheus's own tools accept."""

from __future__ import annotations

import dataclasses
import re

import pytest
from fakes import ScriptedSession, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from promtool import promtool

from edgeqwen.v1 import telemetry_pb2 as pb
from runtime.engine.engine import Engine
from runtime.engine.request_meter import RequestFigures
from runtime.engine.sequence import Request
from runtime.metrics.exposition import page, wants_openmetrics
from runtime.metrics.families import families, of_export

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,/;q=0.1"
)
SENT = {"spans_exported": 5, "spans_failed": 1, "spans_dropped": 0, "metrics_exported": 2, "metrics_failed": 0}

A_JETSON = pb.MachineInfo(
    cores=4,
    cpu_busy=0.5,
    load_1m=2.5,
    memory_total_bytes=8 << 30,
    memory_available_bytes=4 << 30,
    swap_free_bytes=0,
    temperatures=[pb.Temperature(sensor="cpu", celsius=celsius) for celsius in (51.5, 52.5)],
    cpu_cores=[pb.CpuCore(number=number, busy=0.25, frequency_hz=1_500_000_000) for number in range(2)],
    memory_pressure=pb.Pressure(some_avg10=12.5, full_avg10=2.5),
    cpu_pressure=pb.Pressure(some_avg10=50),
    throttling=pb.Throttling(reasons=["under-voltage"]),
    gpus=[pb.Gpu(name="ga10b", busy=0.75, celsius=60)],
    rails=[pb.Rail(name="VDD_IN", watts=7.5)],
    disks=[pb.Disk(folder="/var/lib/edgeqwen", total_bytes=64 << 30, free_bytes=32 << 30)],
    network=[pb.NetworkInterface(name="eth0", received_bytes=5, sent_bytes=6)],
)


def after_two_requests() -> Engine:
    """Three tokens and five of answers; a third request was cancelled."""
    engine = Engine(
        ScriptedSession(),
        byte_tokenizer(),
        eos_token_ids=frozenset(),
        queue_limit=4,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
        speculate=False,
    )
    for max_tokens in (3, 5):
        engine.submit(Request((1, 2, 3), max_tokens, ignore_eos=True), lambda event: None)
    engine.cancel(engine.submit(Request((1, 2, 3), 9, ignore_eos=True), lambda event: None))
    while not engine.idle:
        engine.step()
    return engine


def a_snapshot(*engines: pb.EngineInfo) -> pb.Snapshot:
    return pb.Snapshot(
        time_unix_ms=1_800_000_000_500,
        uptime_s=12.5,
        models=[
            pb.LoadedModel(
                model=pb.ModelInfo(name=f'qwen "{at}"\\', variant="generic-x86_64", weights_bytes=1 << 28), engine=its
            )
            for at, its in enumerate(engines)
        ],
        machine=A_JETSON,
        daemon_version="0.1.0",
        call_errors=[pb.CallErrors(method="/v1/models", code="NOT_FOUND", total=3)],
        energy=pb.Energy(watts=7.5, covers=["VDD_IN"], joules=1234.5, counted_s=60, joules_per_token=0.4),
        clients=[
            pb.ClientInfo(name=name, requests_total=at, refused_total=1) for at, name in enumerate(("uid:7", "x"))
        ],
    )


def everything() -> list[Metric]:
    """Of two models, one of which has done nothing yet."""
    engine = after_two_requests()
    fresh = Engine(
        ScriptedSession(),
        byte_tokenizer(),
        eos_token_ids=frozenset(),
        queue_limit=4,
        prefill_chunk_tokens=8,
        kv_budget_tokens=1000,
    )
    snapshot = a_snapshot(*(pb.EngineInfo(**dataclasses.asdict(its.stats())) for its in (engine, fresh)))
    figures: dict[str, RequestFigures] = {
        its.model.name: each.figures() for its, each in zip(snapshot.models, (engine, fresh), strict=True)
    }
    return [*families(snapshot, figures), *of_export(SENT)]


def value(text: str, line: str) -> float:
    """Of the one sample that begins so."""
    [found] = re.findall(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found)


def test_the_page_is_what_prometheus_reads_without_a_complaint() -> None:
    """`promtool check metrics` looks at names, types, help and units too."""
    promtool("check", "metrics", given=page(everything(), "").body)


def test_both_formats_say_the_same() -> None:
    """And both can be read by the strict parsers of the reference implementation."""
    told = everything()
    text, openmetrics = page(told, ""), page(told, OPENMETRICS)
    assert text.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert openmetrics.content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    plain = [sample for family in parse_text(text.body.decode()) for sample in family.samples]
    other = [sample for family in parse_openmetrics(openmetrics.body.decode()) for sample in family.samples]
    assert {(s.name, tuple(sorted(s.labels.items())), s.value) for s in plain} == {
        (s.name, tuple(sorted(s.labels.items())), s.value) for s in other
    }
    assert openmetrics.body.endswith(b"# EOF\n")


def test_everything_is_ours_has_a_help_and_a_base_unit() -> None:
    """Milliseconds, megabytes and percents are for people."""
    for family in everything():
        assert family.name.startswith("edgeqwen_"), family.name
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"(_ms|_us|_kb|_mb|_percent|_watts?_|_celsius_)($|_)", family.name), family.name


def test_histograms_hold_every_request() -> None:
    """Buckets add up to their count; the cancelled request is there with its outcome, and in no time per token."""
    text = page(everything(), "").body.decode()
    model = 'model="qwen \\"0\\"\\\\"'
    for name, count in (("time_to_first_token", 2), ("time_per_output_token", 2), ("queue_time", 2), ("token_gap", 6)):
        assert value(text, f"edgeqwen_{name}_seconds_count{{{model}}}") == count
        assert value(text, f'edgeqwen_{name}_seconds_bucket{{le="+Inf",{model}}}') == count
    assert value(text, f"edgeqwen_request_completion_tokens_sum{{{model}}}") == 8
    for outcome, count in (("finished", 2), ("cancelled", 1), ("failed", 0)):
        assert value(text, f'edgeqwen_request_duration_seconds_count{{{model},outcome="{outcome}"}}') == count


def test_values_are_those_of_the_snapshot() -> None:
    """In base units, and with the time of what is told by its age."""
    engine = pb.EngineInfo(queue_depth=3, kv_warm_tokens=7, completion_tokens_total=99, last_step_age_ms=1500)
    text = page(families(a_snapshot(engine), {}), "").body.decode()
    model = 'model="qwen \\"0\\"\\\\"'
    assert value(text, f"edgeqwen_requests_waiting{{{model}}}") == 3
    assert value(text, f'edgeqwen_kv_tokens{{{model},state="warm"}}') == 7
    assert value(text, f"edgeqwen_completion_tokens_total{{{model}}}") == 99
    assert value(text, f"edgeqwen_last_step_timestamp_seconds{{{model}}}") == 1_799_999_999
    assert value(text, f"edgeqwen_model_weights_bytes{{{model}}}") == 1 << 28
    assert value(text, "edgeqwen_ready_timestamp_seconds") == 1_799_999_988
    assert value(text, 'edgeqwen_machine_memory_bytes{kind="total"}') == 8 << 30


def test_two_sensors_of_one_name_stay_two() -> None:
    """A scrape with one series twice is refused as a whole."""
    text = page(families(a_snapshot(), {}), "").body.decode()
    assert value(text, 'edgeqwen_temperature_celsius{sensor="cpu"}') == 51.5
    assert value(text, 'edgeqwen_temperature_celsius{sensor="cpu 2"}') == 52.5


def test_what_is_not_known_is_not_there() -> None:
    """A gap says more than a zero: an engine that has made no step has no time of its last."""
    text = page(families(a_snapshot(pb.EngineInfo()), {}), "").body.decode()
    assert not re.search(r"^edgeqwen_last_step_timestamp_seconds\{", text, re.MULTILINE)


def test_a_board_without_sensors_has_no_families_with_zeros() -> None:
    """Of what its kernel does not tell there is no sample at all."""
    text = page(families(pb.Snapshot(machine=pb.MachineInfo(cores=4)), {}), "").body.decode()
    assert re.findall(r"^edgeqwen\S+", text, re.MULTILINE) == [
        'edgeqwen_daemon_info{version=""}',
        "edgeqwen_ready_timestamp_seconds",
        "edgeqwen_machine_cores",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('edgeqwen_daemon_info{version="0.1.0"}', 1),
        ("edgeqwen_machine_busy_ratio", 0.5),
        ('edgeqwen_machine_memory_bytes{kind="swap_free"}', 0),
        ('edgeqwen_cpu_frequency_hertz{core="1"}', 1.5e9),
        ('edgeqwen_pressure_ratio{kind="some",resource="memory"}', 0.125),
        ("edgeqwen_throttled", 1),
        ('edgeqwen_throttle_reason{reason="under-voltage"}', 1),
        ('edgeqwen_gpu_busy_ratio{gpu="0 ga10b"}', 0.75),
        ('edgeqwen_rail_power_watts{rail="VDD_IN"}', 7.5),
        ("edgeqwen_energy_joules_total", 1234.5),
        ("edgeqwen_energy_per_token_joules", 0.4),
        ('edgeqwen_disk_free_bytes{folder="/var/lib/edgeqwen"}', 32 << 30),
        ('edgeqwen_network_sent_bytes_total{interface="eth0"}', 6),
        ('edgeqwen_client_requests_total{client="x"}', 1),
        ('edgeqwen_call_errors_total{code="NOT_FOUND",method="/v1/models"}', 3),
        ('edgeqwen_governor_level{model="hot"}', 2),
        ('edgeqwen_package_info{name="hot",slot="b",trial="true",variant="pi",version="1.3.0"}', 1),
        ("edgeqwen_rollbacks_total", 2),
    ],
)
def test_what_the_board_tells_is_told_in_base_units(line: str, expected: float) -> None:
    """Shares instead of percents, hertz, watts, joules, bytes."""
    snapshot = a_snapshot()
    hot = pb.EngineInfo(throttle=pb.Throttle(level=2, rows=1, share=0.5))
    snapshot.models.append(pb.LoadedModel(model=pb.ModelInfo(name="hot", variant="pi"), engine=hot))
    served = pb.ServedPackage(model="hot", version="1.3.0", slot="b", trial=True, rollbacks_total=2)
    snapshot.served.CopyFrom(served)
    assert value(page(families(snapshot, {}), "").body.decode(), line) == expected


def test_what_became_of_spans_is_told() -> None:
    text = page(of_export(SENT), "").body.decode()
    assert value(text, 'edgeqwen_otel_spans_total{result="failed"}') == 1
    assert value(text, 'edgeqwen_otel_metric_exports_total{result="exported"}') == 2


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        (OPENMETRICS, True),
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=2.0.0", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.1, text/plain", False),
        ("application/openmetrics-text;q=much", False),
        ("APPLICATION/OpenMetrics-Text ; Version=1.0.0 ; Q=1.0", True),
    ],
)
def test_the_scraper_chooses_the_format(accept: str, wanted: bool) -> None:
    """What it likes best of what we have; who says nothing gets plain text."""
    assert wants_openmetrics(accept) is wanted


@given(st.text(alphabet=st.sampled_from('application/openmetrics-text;q=.,*0123 versionplain"')))
def test_no_accept_header_breaks_it(accept: str) -> None:
    assert page([], accept).body in (b"", b"# EOF\n")
