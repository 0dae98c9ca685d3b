"""Writes docs/grafana/edgeqwen.json, a dashboard of boards one by one.

Run it after a change here or in grafana_panels.py; a test compares the file with what this makes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from grafana_panels import RATE, Panel, Query, Variable, document

OUTPUT = Path(__file__).parents[1] / "docs" / "grafana" / "edgeqwen.json"
WHERE = 'instance=~"$instance"'
MODEL = f'{WHERE}, model=~"$model"'


def gauge(name: str, labels: str = MODEL) -> str:
    return f"edgeqwen_{name}{{{labels}}}"


def rate(name: str, by: str, labels: str = MODEL) -> str:
    return f"sum by ({by}) (rate(edgeqwen_{name}{{{labels}}}{RATE}))"


def quantiles(name: str, *shares: float, labels: str = MODEL) -> list[Query]:
    buckets = f"sum by (le, instance, model) (rate(edgeqwen_{name}_bucket{{{labels}}}{RATE}))"
    return [Query(f"histogram_quantile({share}, {buckets})", f"p{share * 100:g} {{{{model}}}}") for share in shares]


BY_MODEL = "instance, model"
NAMED = "{{instance}} {{model}}"
ROWS: dict[str, list[Panel]] = {
    "Overview": [
        Panel(
            "Tokens per second",
            "Generated, by all models.",
            [Query(rate("completion_tokens_total", "instance"))],
            kind="number",
            width=5,
        ),
        Panel(
            "Requests that run",
            "Of all models.",
            [Query(f"sum by (instance) ({gauge('requests_running')})")],
            kind="number",
            width=5,
        ),
        Panel(
            "Requests that wait",
            "More than a few for long: the board is too slow for what is asked of it.",
            [Query(f"sum by (instance) ({gauge('requests_waiting')})")],
            kind="number",
            width=5,
        ),
        Panel(
            "Refused per second",
            "By the engine: its queue was full, or a client was over its limits.",
            [Query(rate("requests_refused_total", "instance"))],
            "reqps",
            "number",
            5,
        ),
        Panel(
            "Up since",
            "When the daemon was ready.",
            [Query(f"{gauge('ready_timestamp_seconds', WHERE)} * 1000")],
            "dateTimeFromNow",
            "number",
            4,
        ),
        Panel("Models", "What is loaded, and what runs it.", [Query(gauge("model_info"))], kind="table", width=24),
    ],
    "Latency": [
        Panel(
            "Time to first token",
            "From a request's arrival: waiting and the prompt. Each column is a time.",
            [Query(f"sum by (le) (increase(edgeqwen_time_to_first_token_seconds_bucket{{{MODEL}}}{RATE}))", "{{le}}")],
            "s",
            "heatmap",
            12,
        ),
        Panel(
            "Time to first token",
            "Median, and what one request in twenty exceeds.",
            quantiles("time_to_first_token_seconds", 0.5, 0.95),
            "s",
            width=12,
        ),
        Panel(
            "Time per output token",
            "Of requests that finished, after the first token.",
            quantiles("time_per_output_token_seconds", 0.5, 0.95),
            "s",
        ),
        Panel(
            "Gaps between tokens",
            "Answers that stand still for a while show here and nowhere else.",
            quantiles("token_gap_seconds", 0.5, 0.99),
            "s",
        ),
        Panel(
            "Time in the queue",
            "Until the first part of the prompt is computed.",
            quantiles("queue_time_seconds", 0.5, 0.95),
            "s",
        ),
    ],
    "Requests": [
        Panel(
            "Requests by how they ended",
            "Per second.",
            [Query(rate("request_duration_seconds_count", f"{BY_MODEL}, outcome"), f"{NAMED} {{{{outcome}}}}")],
            "reqps",
            "stacked",
        ),
        Panel(
            "Refused",
            "Per second, by reason.",
            [Query(rate("requests_refused_total", f"{BY_MODEL}, reason"), f"{NAMED} {{{{reason}}}}")],
            "reqps",
        ),
        Panel(
            "Errors",
            "Calls that got one, per second: what was refused before any model saw it is only here.",
            [Query(rate("call_errors_total", "instance, method, code", WHERE), "{{instance}} {{method}} {{code}}")],
            "reqps",
        ),
        Panel(
            "Duration of requests",
            "Of those that finished.",
            quantiles("request_duration_seconds", 0.5, 0.95, labels=f'{MODEL}, outcome="finished"'),
            "s",
        ),
        Panel(
            "Queue",
            "Requests that wait, and how many may.",
            [
                Query(gauge("requests_waiting"), f"{NAMED} wait"),
                Query(gauge("requests_waiting_limit"), f"{NAMED} limit"),
            ],
        ),
        Panel(
            "Rows",
            "Requests that run, and how many can.",
            [Query(gauge("requests_running"), f"{NAMED} run"), Query(gauge("slots"), f"{NAMED} slots")],
        ),
        Panel(
            "Tokens per second",
            "Prompts that were computed or found in the cache, and answers.",
            [
                Query(rate("prompt_tokens_total", BY_MODEL), f"{NAMED} prompt"),
                Query(rate("cached_prompt_tokens_total", BY_MODEL), f"{NAMED} prompt, cached"),
                Query(rate("completion_tokens_total", BY_MODEL), f"{NAMED} answer"),
            ],
        ),
    ],
    "Memory": [
        Panel(
            "KV cache",
            "Tokens written, promised, and kept of earlier requests; and the budget of all.",
            [Query(gauge("kv_tokens"), f"{NAMED} {{{{state}}}}"), Query(gauge("kv_budget_tokens"), f"{NAMED} budget")],
        ),
        Panel(
            "Memory",
            "Of the daemon, and what the machine has left.",
            [
                Query(
                    f"process_resident_memory_bytes and on (job, instance) {gauge('ready_timestamp_seconds', WHERE)}",
                    "{{instance}} daemon",
                ),
                Query(gauge("machine_memory_bytes", f'{WHERE}, kind="available"'), "{{instance}} available"),
            ],
            "bytes",
        ),
        Panel(
            "Pressure",
            "Share of the time in which work waited for memory, processor or disk.",
            [Query(gauge("pressure_ratio", f'{WHERE}, kind="some"'), "{{instance}} {{resource}}")],
            "percentunit",
        ),
        Panel(
            "Disk left",
            "Of the folders that the daemon uses.",
            [Query(gauge("disk_free_bytes", WHERE), "{{instance}} {{folder}}")],
            "bytes",
        ),
    ],
    "Heat and power": [
        Panel(
            "Temperature",
            "By sensor.",
            [
                Query(gauge("temperature_celsius", WHERE), "{{instance}} {{sensor}}"),
                Query(gauge("gpu_temperature_celsius", WHERE), "{{instance}} GPU {{gpu}}"),
            ],
            "celsius",
        ),
        Panel(
            "Held back",
            "What holds the processor back, and how far the engine is lowered for heat or power.",
            [
                Query(gauge("throttled", WHERE), "{{instance}} reasons of the board"),
                Query(gauge("throttle_reason", WHERE), "{{instance}} {{reason}}"),
                Query(gauge("governor_level"), f"{NAMED} level of the engine"),
            ],
        ),
        Panel(
            "Clocks",
            "Of each core.",
            [
                Query(gauge("cpu_frequency_hertz", WHERE), "{{instance}} core {{core}}"),
                Query(gauge("gpu_frequency_hertz", WHERE), "{{instance}} GPU {{gpu}}"),
            ],
            "hertz",
        ),
        Panel(
            "Busy",
            "Share of all cores, and of GPUs.",
            [
                Query(gauge("machine_busy_ratio", WHERE), "{{instance}} cores"),
                Query(gauge("gpu_busy_ratio", WHERE), "{{instance}} GPU {{gpu}}"),
            ],
            "percentunit",
        ),
        Panel(
            "Power",
            "Of the machine, and of each rail.",
            [
                Query(gauge("power_watts", WHERE), "{{instance}} machine"),
                Query(gauge("rail_power_watts", WHERE), "{{instance}} {{rail}}"),
            ],
            "watt",
        ),
        Panel(
            "Energy per token",
            "Of the whole machine, for each token that was generated.",
            [
                Query(
                    f"sum by (instance) (rate(edgeqwen_energy_joules_total{{{WHERE}}}{RATE})) / "
                    f"(sum by (instance) (rate(edgeqwen_completion_tokens_total{{{WHERE}}}{RATE})) > 0)"
                )
            ],
            "joule",
        ),
    ],
    "Clients": [
        Panel(
            "Tokens per second",
            "Of answers, by client.",
            [Query(rate("client_completion_tokens_total", "instance, client", WHERE), "{{instance}} {{client}}")],
        ),
        Panel(
            "Requests",
            "Per second, by client.",
            [Query(rate("client_requests_total", "instance, client", WHERE), "{{instance}} {{client}}")],
            "reqps",
        ),
        Panel(
            "Refused",
            "Per second, by client.",
            [Query(rate("client_requests_refused_total", "instance, client", WHERE), "{{instance}} {{client}}")],
            "reqps",
        ),
    ],
}


def render() -> str:
    """The file."""
    variables = [
        Variable("instance", "Board", "edgeqwen_ready_timestamp_seconds"),
        Variable("model", "Model", f"edgeqwen_model_info{{{WHERE}}}"),
    ]
    return document("edgeqwen", "edgeqwen", "Daemons that run small Qwen models on edge boards.", variables, ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.parse_args().output.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
