"""From the file of a matrix to its jobs, one for each package.

Variants of a package share weights, calibration text and tokenizer. So a job is a model at a precision, and the
profiles that are left of the product are the variants of its package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TypeVar, cast

from runtime.errors import BuildError, Fault, InvalidInput, MatrixError, PresetError, ProfileError
from runtime.presets import Presets
from runtime.profile import Profile, builtin_profiles, find_profile, require_buildable

from ..checkpoints.adapters import merged_name
from ..checkpoints.sources import name_of
from ..presets import read_presets_file
from ..recipes.qnn import plan_pipeline
from ..recipes.recipe import Precision, require_runnable
from ..variant import Exporter
from .file import Include, MatrixFile

MAX_COMBINATIONS = 10_000

_ANY = (None,)
_Text = TypeVar("_Text", bound=str)


@dataclass(frozen=True)
class Job:
    """A package to build. Folders and files are absolute; `source` is one too, unless it is a hub id or `reference`.

    Args:
        name: of the package, without suffix. No other job of its matrix has it.
    """

    name: str
    source: str
    precision: Precision
    profiles: tuple[Profile, ...]
    version: str
    presets: Presets
    revision: str | None = None
    calibration: Path | None = None
    merge_adapter: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    adapter_targets: tuple[str, ...] = ()
    exporter: Exporter = "model_builder"
    allow_low_fidelity: bool = False


@dataclass
class _Combination:
    """One of the product, or one that an include row adds. `settings` are the job's that differ from what is usual."""

    model: str
    profile: str
    precision: Precision
    place: str
    settings: dict[str, object] = field(default_factory=dict)

    def fits(self, row: Mapping[str, Sequence[str] | None]) -> bool:
        """Whether all that the row says of the three is true of it."""
        return all(values is None or getattr(self, name) in values for name, values in row.items())


def jobs_of(file: MatrixFile, folder: Path, subject: str, *, sources_are_here: bool) -> list[Job]:
    """The jobs of a file in `folder`; those of different models in turn, as those of one wait for each other.

    Args:
        sources_are_here: whether a model's folder must be on this machine. Workers elsewhere may see others.

    Raises MatrixError with every fault.
    """
    if len(file.models) * len(file.profiles) * max(1, len(file.precisions)) > MAX_COMBINATIONS:
        raise MatrixError([Fault("", f"has more than {MAX_COMBINATIONS} combinations: make several of it")], subject)
    plan = _Plan(file, folder.absolute(), sources_are_here)
    jobs = plan.jobs(plan.combinations())
    if not jobs and not plan.faults:
        plan.fault("", "nothing is left to build: models x profiles x precisions, less exclude, and include make it")
    if plan.faults:
        raise MatrixError(plan.faults, subject)
    seen: Counter[str] = Counter()
    turns = {}
    for job in jobs:
        turns[job.name] = seen[job.source]
        seen[job.source] += 1
    return sorted(jobs, key=lambda job: turns[job.name])


class _Plan:
    def __init__(self, file: MatrixFile, folder: Path, sources_are_here: bool) -> None:
        self._file = file
        self._folder = folder
        self._sources_are_here = sources_are_here
        self._presets = read_presets_file()
        self.faults: list[Fault] = []
        self._profiles = dict(self._load_profiles())

    def fault(self, path: str, message: str) -> None:
        self.faults.append(Fault(path, message))

    def _load_profiles(self) -> Iterator[tuple[str, Profile]]:
        """By what the file calls them; those that cannot be built for are faults."""
        places = {text: f"profiles[{at}]" for at, text in reversed(list(enumerate(self._file.profiles)))}
        for at, row in enumerate(self._file.include):
            places |= {text: f"include[{at}].profile" for text in row.profile or [] if text not in places}
        known = builtin_profiles()
        for text, place in places.items():
            is_file = text not in known and ("/" in text or text.endswith((".yaml", ".yml")))
            try:
                profile = find_profile(str(self._place(text)) if is_file else text)
                require_buildable([profile])
            except ProfileError as error:
                self.fault(place, str(error))
            else:
                yield text, profile

    def _place(self, text: str) -> Path:
        return self._folder / Path(text).expanduser()

    def combinations(self) -> list[_Combination]:
        """What is left of the product, and what is added to it."""
        file = self._file
        models, profiles = self._once("models", file.models), self._once("profiles", file.profiles)
        precisions = self._once("precisions", file.precisions)
        originals = [
            _Combination(model, profile, precision or self._own_precision(profile), place)
            for (model, place), profile, precision in product(models.items(), profiles, precisions or _ANY)
        ]
        left = originals
        for at, row in enumerate(file.exclude):
            says = {"model": row.model, "profile": row.profile, "precision": row.precision}
            if not row.model_fields_set:
                self.fault(f"exclude[{at}]", "must name a model, a profile or a precision")
                continue
            if not any(each.fits(says) for each in originals):
                self.fault(f"exclude[{at}]", "fits nothing: values are compared as they are written above")
            left = [each for each in left if not each.fits(says)]
        added: list[_Combination] = []
        for at, several in enumerate(file.include):
            self._include(f"include[{at}]", several, left, added)
        return left + added

    def _once(self, name: str, values: Sequence[_Text]) -> dict[_Text, str]:
        """Each with its place in the list of that name."""
        places: dict[_Text, str] = {}
        for at, value in enumerate(values):
            if value in places:
                self.fault(f"{name}[{at}]", f"is there already ({value})")
            places.setdefault(value, f"{name}[{at}]")
        return places

    def _own_precision(self, profile: str) -> Precision:
        known = self._profiles.get(profile)
        return known.quantization.precision if known else "int4"

    def _include(self, place: str, row: Include, left: Sequence[_Combination], added: list[_Combination]) -> None:
        """Each value of its lists by itself, as if the row were there once for each."""
        settings = self._settings(place, row.settings)
        for model, profile, precision in product(row.model or _ANY, row.profile or _ANY, row.precision or _ANY):
            asked = {"model": model, "profile": profile, "precision": precision}
            fitting = [each for each in left if each.fits({k: v and [v] for k, v in asked.items()})]
            for each in fitting:
                each.settings |= settings
            if fitting:
                continue
            if model is None or profile is None:
                self.fault(place, "fits nothing, and adds nothing without a model and a profile")
                continue
            own = precision or self._own_precision(profile)
            if any(each.fits({"model": [model], "profile": [profile], "precision": [own]}) for each in added):
                self.fault(place, f"adds what another row has added ({model}, {profile}, {own})")
            else:
                added.append(_Combination(model, profile, own, place, settings))

    def _settings(self, place: str, given: Mapping[str, object]) -> dict[str, object]:
        """As a job has them: files are found and presets read."""
        settings = dict(given)
        for name in ("calibration", "merge_adapter"):
            if text := given.get(name):
                settings[name] = self._there(f"{place}.{name}", str(text))
        if text := given.get("presets"):
            try:
                settings["presets"] = read_presets_file(self._place(str(text)))
            except PresetError as error:
                self.fault(f"{place}.presets", str(error))
        if "adapters" in given:
            folders = cast("Mapping[str, str]", given["adapters"])
            settings["adapters"] = {name: self._there(f"{place}.adapters.{name}", at) for name, at in folders.items()}
        if "adapter_targets" in given:
            settings["adapter_targets"] = tuple(cast("list[str]", given["adapter_targets"]))
        return {name: value for name, value in settings.items() if value is not None}

    def _there(self, place: str, text: str) -> Path:
        path = self._place(text)
        if not path.exists():
            self.fault(place, f"there is no {path}")
        return path

    def jobs(self, combinations: Sequence[_Combination]) -> list[Job]:
        """A job for each model and precision of them."""
        groups: dict[tuple[str, Precision], list[_Combination]] = {}
        for each in combinations:
            groups.setdefault((each.model, each.precision), []).append(each)
        jobs: dict[str, Job] = {}
        for members in groups.values():
            if job := self._job(members):
                if other := jobs.get(job.name):
                    message = f"{other.source} and {job.source} would both be {job.name}: name a folder otherwise"
                    self.fault(members[0].place, message)
                jobs[job.name] = job
        return list(jobs.values())

    def _job(self, members: Sequence[_Combination]) -> Job | None:
        """The job of what is alike in model and precision; None if that has a fault."""
        first = members[0]
        profiles: dict[str, Profile] = {}
        for each in members:
            if each.settings != first.settings:
                message = f"gives {each.profile} other settings than {first.profile}, and both go into one package"
                self.fault(each.place, message)
            if (profile := self._profiles.get(each.profile)) is None:
                continue
            if profile.name in profiles:
                self.fault(each.place, f"{each.profile} is another file for the profile {profile.name}")
            self._require_runnable(each, profile)
            profiles[profile.name] = profile
        if not profiles:
            return None
        source = self._source(first)
        name = name_of(source)
        if merged := first.settings.get("merge_adapter"):
            name = merged_name(name, cast("Path", merged))
        return Job(
            name=f"{name}-{first.precision}",
            source=source,
            precision=first.precision,
            profiles=tuple(profiles.values()),
            version=self._file.package_version,
            **{"presets": self._presets} | first.settings,  # type: ignore[arg-type]
        )

    def _require_runnable(self, each: _Combination, profile: Profile) -> None:
        if each.settings.get("exporter") == "optimum":
            return  # which knows of itself what it cannot
        try:
            if profile.execution.backend == "qnn":
                plan_pipeline(profile, each.precision)
            else:
                require_runnable(each.precision, profile.execution)
        except (BuildError, InvalidInput) as error:
            self.fault(each.place, f"{profile.name} at {each.precision}, which exclude could leave out: {error}")

    def _source(self, each: _Combination) -> str:
        """A folder or file where there is one, else the hub id."""
        path = self._place(each.model)
        is_path = each.model.startswith((".", "/", "~")) or (each.model != "reference" and path.exists())
        if is_path and self._sources_are_here and not path.exists():
            self.fault(each.place, f"there is no folder or file {path}")
        return str(path) if is_path else each.model
