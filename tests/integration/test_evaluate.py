"""`edgeqwen-compile evaluate`, and the fidelity gate of `build`, on a tiny checkpoint."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from integration.compiler import compile
from tiny import make_tiny

from runtime.engine.tokenizer import Tokenizer
from runtime.package import Package
from runtime.profile import find_profile
from runtime.sessions.ort_session import OrtSession
from toolchain.evaluation.choices import read_questions, tokens_of
from toolchain.evaluation.float_reference import FloatReference
from toolchain.evaluation.scoring import float_scores, session_scores

pytestmark = pytest.mark.slow

PROFILE = "generic-x86_64"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint, `tiny`, and the cache of its builds."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_tiny(folder / "tiny", "qwen2")
    return folder


def build(place: Path, profile: str | Path, out: Path, *flags: str) -> Result:
    precision = ("--precision", "int8", "--cache", place / "cache")
    return compile("build", place / "tiny", "--profile", profile, *precision, *flags, "-o", out)


@pytest.fixture(scope="module")
def package(place: Path) -> Path:
    done = build(place, PROFILE, place / "dist")
    assert done.exit_code == 0, done.stderr
    return place / "dist" / "tiny-int8.ortpackage"


class Page(HTMLParser):
    """What a page shows, and what it would load from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.loads, self.plots = "", list[str](), 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.plots += tag == "svg"
        given = [value for name, value in attributes if name in ("src", "href", "xlink:href") and value]
        self.loads += [value for value in given if not value.startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_report_has_everything_and_is_a_page_by_itself(place: Path, package: Path, tmp_path: Path) -> None:
    """JSON on stdout and in the folder is the same; int8 is as good as float here; held to a schema every answer fits.
    The page has the same figures and the plots, and loads nothing; no id in it is there twice."""
    out = tmp_path / "report"
    done = compile(
        *("evaluate", package, "--against", place / "tiny", "--limit", "20", "--answer-tokens", "64"),
        *("--cache", place / "cache", "--json", "-o", out),
    )
    assert done.exit_code == 0, done.stderr
    assert "multiple choice, float: " in done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    kld, choices = report["kld"], report["choices"]["result"]
    built = Package.open(package).build
    assert built.fidelity is not None
    assert kld["mean_kld"] == pytest.approx(built.fidelity.mean_kld, rel=1e-2)
    assert 0 < kld["median_kld"] <= kld["p99_kld"] < built.profile.quantization.int8.max_kld
    assert kld["perplexity"] == pytest.approx(kld["perplexity_float"], rel=0.01)
    assert report["gate"]["passed"]
    assert choices["questions"] == 20
    assert choices["same"] >= 0.9
    assert report["json"]["valid_held"] == report["json"]["answers"] == 12
    assert report["loops"]["answers"] == 32
    assert report["subject"]["against_digest"] == built.source.digest
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.loads == []
    assert page.plots == 5
    assert f"{kld['mean_kld']:.4f}" in page.text
    assert "Within the profile's fidelity gate" in page.text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert {each for each in ids if ids.count(each) > 1 and f"#{each}" in text} == set()


def test_only_what_is_asked_for_is_measured(place: Path, package: Path, tmp_path: Path) -> None:
    """On the user's own text and questions, for people, without a gate: that is for the held-out text."""
    text, questions = tmp_path / "own.txt", tmp_path / "own.jsonl"
    text.write_text("The pump in hall 3 leaks. " * 60)
    questions.write_text(json.dumps({"query": "Question: Is it?", "choices": ["yes", "no"], "gold": 1}))
    done = compile(
        *("evaluate", package, "--against", place / "tiny", "--only", "kld", "--only", "choices"),
        *("--text", text, "--windows", "2", "--choices", questions, "--cache", place / "cache"),
    )
    assert done.exit_code == 0, done.stderr
    assert "own.txt: 2 windows, 1024 tokens" in done.stdout
    assert "own.jsonl: 1 questions" in done.stdout
    assert "No gate" in done.stdout
    assert "JSON" not in done.stdout


def test_what_cannot_be_evaluated_is_refused_in_one_line(place: Path, package: Path, tmp_path: Path) -> None:
    """With the exit status of its kind, before anything is measured."""
    other = make_tiny(tmp_path / "other", "qwen3")
    questions, text = tmp_path / "broken.jsonl", tmp_path / "short.txt"
    questions.write_text("broken\n")
    text.write_text("short")
    tiny = ("--against", place / "tiny")
    for words, status, said in (
        ((tmp_path / "nowhere", *tiny), 4, "there is no package at"),
        ((package, "--variant", "board", *tiny), 4, "has no variant 'board'"),
        ((package,), 7, "built from the folder tiny: say where it is with --against"),
        ((package, "--against", other), 7, "is not what the package was built from: its digest is"),
        ((package, "--against", tmp_path / "nowhere"), 7, "there is no folder or file"),
        ((package, "--choices", questions, *tiny), 3, "broken.jsonl: line 1: is not JSON"),
        ((package, "--text", text, *tiny), 3, "short.txt: is too short: 256 tokens are the least"),
        ((package, "--text", tmp_path / "nowhere", *tiny), 3, "cannot be read"),
        ((package, "--windows", "0", *tiny), 2, "0 is not in the range"),
    ):
        done = compile("evaluate", *words, "--cache", place / "cache")
        assert done.exit_code == status, done.stderr
        assert said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


def test_choices_are_scored_as_transformers_does_however_many_rows_there_are(place: Path, package: Path) -> None:
    """Of a package that is rounded to 8 bits only: every answer's log-probability within some hundredths a token."""
    opened = Package.open(package)
    tokenizer = Tokenizer.from_file(opened.tokenizer_file)
    questions = [tokens_of(question, tokenizer) for question in read_questions(limit=12)]
    expected = float_scores(FloatReference(place / "tiny"), questions)
    for slots in (1, 4, 32):
        session = OrtSession(opened.serving_graph, slots=slots, context_tokens=256, threads=2)
        for question, got, wanted in zip(questions, session_scores(session, questions), expected, strict=True):
            for ending, one, other in zip(question.endings, got, wanted, strict=True):
                assert one == pytest.approx(other, abs=0.05 * len(ending) + 0.05)


def strict_profile(folder: Path) -> Path:
    """A profile whose gate nothing passes that is rounded."""
    data = find_profile(PROFILE).model_dump() | {"name": "strict"}
    data["quantization"]["int8"]["max_kld"] = 1e-9
    data["runtime"]["context_tokens"] = 1024
    path = folder / "strict.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_package_above_its_gate_is_not_written(place: Path, package: Path, tmp_path: Path) -> None:
    """One line says what was measured, what the gate is, and what to do; what another profile allows does not help."""
    out = tmp_path / "out"
    done = build(place, strict_profile(tmp_path), out, "--profile", PROFILE)
    assert done.exit_code == 8
    last = done.stderr.splitlines()[-1]
    assert re.search(
        r"no package was written: strict: mean KLD 0\.\d{4} on .* is above the profile's gate of 1e-09", last
    )
    assert "--allow-low-fidelity" in last
    assert PROFILE not in last
    assert not out.exists()


def test_a_package_above_its_gate_is_written_where_that_is_allowed(place: Path, package: Path, tmp_path: Path) -> None:
    """build.json says so, and the command; a variant within its gate mentions nothing."""
    flags = ("--profile", PROFILE, "--allow-low-fidelity", "--json")
    done = build(place, strict_profile(tmp_path), tmp_path / "out", *flags)
    assert done.exit_code == 0, done.stderr
    root = tmp_path / "out" / "tiny-int8.ortpackage"
    [said] = Package.open(root, "strict").build.low_fidelity
    assert "is above the profile's gate of 1e-09" in said
    assert [row.get("low_fidelity") for row in json.loads(done.stdout)["variants"]] == [[said], None]
    assert "low_fidelity" not in (root / "models" / "decoder" / PROFILE / "build.json").read_text()
