"""A report as one HTML page: nothing in it is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .evaluation import Evaluation
from .loops import MIN_REPEATS, MIN_TOKENS
from .report import Likely, Position, Report, rows, verdict
from .report_plots import choices_plot, divergence_plots

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #33383f; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #e3e6ea; }
th { font-weight: 600; color: #646a73; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.about, .note { color: #646a73; }
.verdict { font-size: 1.05rem; padding: .6rem .9rem; border-left: 4px solid #8a8f98; background: #f4f5f7; }
.verdict.good { border-color: #2e8b57; background: #eef7f1; }
.verdict.bad { border-color: #c0392b; background: #fbefed; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 1rem; }
.plots svg { width: 100%; height: auto; }
.before, .token { font: 13px/1.5 ui-monospace, monospace; white-space: pre-wrap; }
.before { overflow-wrap: anywhere; }
.token { background: #eef1f4; border-radius: 3px; padding: 0 .25rem; }
"""


def page(evaluation: Evaluation) -> str:
    """The whole document."""
    report = evaluation.report
    title = f"{report.subject.package}, {report.subject.variant}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _about(report),
        _verdict(report),
        "<h2>What was measured</h2>",
        _table(report),
        *_plots(evaluation),
        *_worst(report.kld.worst if report.kld else ()),
        _explained(report),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}: evaluation</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _about(report: Report) -> str:
    subject = report.subject
    tools = ", ".join(f"{name} {version}" for name, version in report.tools.items())
    return (
        f'<p class="about">{subject.precision} on {escape(subject.provider)}, build {subject.build_digest[:12]};'
        f" against the float32 checkpoint {escape(subject.against)} ({subject.against_digest[:12]})."
        f" {escape(tools)}.</p>"
    )


def _verdict(report: Report) -> str:
    kind = "" if report.gate is None else " good" if report.gate.passed else " bad"
    return f'<p class="verdict{kind}">{escape(verdict(report))}</p>'


def _table(report: Report) -> str:
    lines = (
        f"<tr><td>{escape(row.measure)}</td>"
        f'<td class="number">{escape(row.package)}</td><td class="number">{escape(row.float_checkpoint)}</td>'
        f'<td class="note">{escape(row.note)}</td></tr>'
        for row in rows(report)
    )
    return f"<table><tr><th></th><th>package</th><th>float</th><th></th></tr>{''.join(lines)}</table>"


def _plots(evaluation: Evaluation) -> list[str]:
    plots = divergence_plots(evaluation.divergence) if evaluation.divergence else []
    if evaluation.report.choices:
        plots.append(choices_plot(evaluation.report.choices.result))
    figures = "".join(f"<figure style='margin:0'>{svg}</figure>" for svg in plots)
    return [f'<h2>Plots</h2><div class="plots">{figures}</div>'] if plots else []


def _worst(positions: Sequence[Position]) -> list[str]:
    if not positions:
        return []
    lines = (
        f'<tr><td class="number">{position.kld:.3g}</td><td class="before">{escape(position.before)}</td>'
        f"<td>{_token(position.came)}</td><td>{_likely(position.float_checkpoint)}</td>"
        f"<td>{_likely(position.package)}</td></tr>"
        for position in positions
    )
    head = "<tr><th>KLD</th><th>text before</th><th>what came</th><th>float expected</th><th>package expected</th></tr>"
    return [f"<h2>Where they are farthest apart</h2><table>{head}{''.join(lines)}</table>"]


def _likely(tokens: Sequence[Likely]) -> str:
    return "<br>".join(f"{_token(token.text)} {token.probability:.0%}" for token in tokens)


def _token(text: str | None) -> str:
    """White space is shown: it is most of what some tokens are."""
    if text is None:
        return ""
    shown = text.replace(" ", "␣").replace("\n", "⏎")
    return f'<span class="token">{escape(shown)}</span>'


def _explained(report: Report) -> str:
    said = (
        (report.kld, "KLD", "the Kullback-Leibler divergence of the package's prediction of the next token from the"
         " float checkpoint's, in nats; 0 is the same."),
        (report.choices, "Multiple choice", "the answer whose text has the highest log-probability a byte counts as"
         " chosen; ± is one standard error, and that of the difference is paired by question."),
        (report.json, "Valid JSON", "the whole answer is JSON of the schema in the prompt. Held to the schema it cannot"
         " be anything else."),
        (report.loops, "Repetition loop", f"an answer ends in one sequence of tokens {MIN_REPEATS} times or more in a"
         f" row, {MIN_TOKENS} tokens or more together."),
    )  # fmt: skip
    lines = "".join(f"<p><b>{name}</b>: {text}</p>" for part, name, text in said if part)
    return f'<h2>What the words mean</h2><div class="note">{lines}</div>'
