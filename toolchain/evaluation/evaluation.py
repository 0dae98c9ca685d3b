"""Evaluates a package against its float checkpoint: token by token, by what it answers, and by how it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from runtime.configuration.settings import RunSettings
from runtime.engine.grammar import Grammars
from runtime.engine.speculation import TOKEN_COST
from runtime.engine.tokenizer import Tokenizer
from runtime.errors import Fault, MaterialError, PackageError
from runtime.models.loading import load_session
from runtime.package import Package
from runtime.sessions.session import Session

from ..calibrate import questions_to_write
from ..checkpoints.sources import Checkpoint
from ..host import cores
from ..progress import Reporter
from . import packaged
from .answers import Prompter, package_answers
from .choices import chosen, compare_choices, tokens_of
from .divergence import Divergence, diverge
from .float_reference import FloatReference
from .heldout import HELD_OUT
from .loops import ends_in_loop
from .material import Material
from .report import ChoicesPart, Gate, JsonPart, KldPart, LoopsPart, Report, Subject, kld_part
from .scoring import ROWS, float_scores, session_scores
from .structured import Task, Validator, tasks

CONTEXT_TOKENS = 1024
JSON_TOKENS = 320

_TOOLS = ("onnxruntime", "torch", "transformers")


@dataclass(frozen=True)
class Evaluation:
    """What was found, and what plots are drawn from."""

    report: Report
    divergence: Divergence | None


class Evaluator:
    """Both sides, loaded. Raises PackageError or SessionError if the package cannot run here."""

    def __init__(self, package: Package, checkpoint: Checkpoint, reporter: Reporter) -> None:
        self._package, self._checkpoint, self._reporter = package, checkpoint, reporter
        self._tokenizer = Tokenizer.from_file(package.tokenizer_file)
        self._prompter = Prompter(package, self._tokenizer)
        with reporter.stage("loading"):
            self._session = open_package(package)
            self._reference = FloatReference(checkpoint.folder)

    def evaluate(self, material: Material) -> Evaluation:
        """Measures the parts that `material` asks for."""
        divergence = self._diverge(material) if "kld" in material.parts else None
        kld = kld_part(divergence, material.text_name, self._tokenizer) if divergence else None
        report = Report(
            subject=self._subject(),
            gate=self._gate(kld),
            kld=kld,
            choices=self._choices(material) if "choices" in material.parts else None,
            json=self._json() if "json" in material.parts else None,
            loops=self._loops(material.answer_tokens) if "loops" in material.parts else None,
            tools={name: version(name) for name in _TOOLS},
        )
        return Evaluation(report, divergence)

    def _subject(self) -> Subject:
        build, checkpoint = self._package.build, self._checkpoint
        return Subject(
            package=build.name,
            variant=build.variant,
            precision=build.precision,
            build_digest=self._package.build_digest,
            provider=self._session.spec.provider,
            against=checkpoint.id,
            against_digest=checkpoint.digest,
        )

    def _gate(self, kld: KldPart | None) -> Gate | None:
        build = self._package.build
        max_kld = build.profile.quantization.max_kld(build.precision)
        if max_kld is None or kld is None or kld.text != HELD_OUT:
            return None
        return Gate(max_kld, kld.mean_kld, kld.mean_kld <= max_kld)

    def _diverge(self, material: Material) -> Divergence:
        size = min(packaged.WINDOW_TOKENS, self._session.spec.context_tokens)
        windows = packaged.windows_of(
            material.text, self._package.tokenizer_file, limit=material.windows, window_tokens=size
        )
        if not windows:
            fault = Fault("", f"is too short: {size // 2} tokens are the least")
            raise MaterialError([fault], material.text_name)
        model = packaged.SessionModel(self._session)
        with self._reporter.stage("token by token") as stage:
            return diverge(self._reference, model, windows, on_window=stage.update)

    def _choices(self, material: Material) -> ChoicesPart:
        questions = material.questions
        tokens = [tokens_of(question, self._tokenizer) for question in questions]
        with self._reporter.stage("multiple choice, package") as stage:
            package = session_scores(self._session, tokens, stage.update)
        with self._reporter.stage("multiple choice, float") as stage:
            reference = float_scores(self._reference, tokens, stage.update)
        picks = [[chosen(*each) for each in zip(questions, scores, strict=True)] for scores in (package, reference)]
        return ChoicesPart(material.questions_name, compare_choices(questions, *picks))

    def _json(self) -> JsonPart:
        build = self._package.build
        grammars = Grammars(self._tokenizer, self._session.spec.vocab_size, frozenset(build.model.eos_token_ids))
        validator, asked = Validator(grammars, self._tokenizer), tasks()
        prompts = [self._prompter(task.prompt) for task in asked]
        held = [validator.grammar(task.schema) for task in asked]
        with self._reporter.stage("JSON, package") as stage:
            free = package_answers(
                *(self._package, self._session, self._tokenizer, prompts),
                max_tokens=JSON_TOKENS,
                on_answers=stage.update,
            )
        with self._reporter.stage("JSON held to schemas, package") as stage:
            kept = package_answers(
                *(self._package, self._session, self._tokenizer, prompts),
                max_tokens=JSON_TOKENS,
                grammars=held,
                on_answers=stage.update,
            )
        of_float = self._float_answers(prompts, JSON_TOKENS, "JSON, float")
        texts = [self._tokenizer.decode(tokens) for tokens in of_float]
        return JsonPart(
            answers=len(asked),
            valid_free=_valid(validator, asked, [answer.text for answer in free]),
            valid_free_float=_valid(validator, asked, texts),
            valid_held=_valid(validator, asked, [answer.text for answer in kept]),
        )

    def _loops(self, max_tokens: int) -> LoopsPart:
        prompts = [self._prompter(question) for question in questions_to_write()]
        with self._reporter.stage("answers, package") as stage:
            answers = package_answers(
                *(self._package, self._session, self._tokenizer, prompts),
                max_tokens=max_tokens,
                on_answers=stage.update,
            )
        of_float = self._float_answers(prompts, max_tokens, "answers, float")
        return LoopsPart(
            answers=len(prompts),
            max_tokens=max_tokens,
            looping=sum(ends_in_loop(answer.tokens) for answer in answers),
            looping_float=sum(map(ends_in_loop, of_float)),
        )

    def _float_answers(self, prompts: Sequence[Sequence[int]], max_tokens: int, name: str) -> list[list[int]]:
        ends = self._checkpoint.geometry.eos_token_ids
        with self._reporter.stage(name) as stage:
            return self._reference.answers(prompts, max_tokens=max_tokens, eos_token_ids=ends, on_tokens=stage.update)


def _valid(validator: Validator, asked: Sequence[Task], texts: Sequence[str]) -> int:
    return sum(validator.fits(text.strip(), task.schema) for task, text in zip(asked, texts, strict=True))


def require_runnable(package: Package) -> None:
    """Raises PackageError if the package does not run on a build host."""
    build = package.build
    if build.profile.execution.backend == "qnn":
        raise PackageError(
            f"{package.root.name} variant {build.variant} runs only in the NPU's simulator here, at seconds a token:"
            " what was measured when it was built is in build.json under fidelity and npu"
        )


def open_package(package: Package) -> Session:
    """The package in the session that it is served with; one for CUDA or OpenVINO's devices, on the CPU.

    Raises SessionError if it cannot be loaded.
    """
    build = package.build
    execution = build.profile.execution
    context_tokens = min(CONTEXT_TOKENS, build.model.context_tokens)
    if execution.backend == "cuda":
        return packaged.open_session(
            package.serving_graph, threads=cores(), context_tokens=context_tokens, packed=False
        )
    slots = 1 if execution.one_row else ROWS
    settings = RunSettings(
        graph=package.serving_graph,
        device="CPU" if execution.backend == "openvino" else None,
        one_row=execution.one_row,
        prefill_threads=cores(),
        decode_threads=cores(),
        slots=slots,
        session_slots=slots,
        context_tokens=context_tokens,
        kv_budget_bytes=slots * context_tokens * build.memory.kv_bytes_per_token,
        token_cost=TOKEN_COST,
        threads_from="evaluation",
        slots_from="evaluation",
    )
    return load_session(package, settings)
