"""Reads sources with `ast`, and tells what in them breaks the rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from architecture_rules import (
    ACROSS,
    DOORS,
    HIDDEN_IMPORTS,
    IMPURE_BUILTINS,
    LAYERS,
    MAX_FILE_LINES,
    MAX_FUNCTION_LINES,
    PURE,
    PURE_MAY_IMPORT,
)


@dataclass(frozen=True)
class Import:
    """`name` is absolute: `from .errors import Fault` in runtime/engine.py is `runtime.errors.Fault`."""

    line: int
    name: str
    relative: bool

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def violations(sources: Mapping[str, str], standard_library: frozenset[str]) -> list[str]:
    """Everything wrong in `sources` (dotted module name to its text), one line each."""
    found = []
    for module, source in sorted(sources.items()):
        tree = ast.parse(source, module)
        if module in LAYERS:
            found += [f"{module}: __init__ holds more than a docstring"] if len(tree.body) > 1 else []
            continue
        if _row(module, module.rpartition(".")[0]) is None:
            found.append(f"{module}: has no place in LAYERS")
        for imported in _imports(module, tree):
            fault = _own_fault(module, imported) if imported.top in LAYERS else None
            if imported.top not in LAYERS and imported.top not in standard_library:
                fault = _door_fault(module, imported.name)
            if fault is None and module in PURE:
                fault = _purity_fault(imported)
            if fault is not None:
                found.append(f"{module}:{imported.line}: {fault}")
        found += [f"{module}:{line}: {fault}" for line, fault in _call_faults(module, tree)]
    return found


def unused_doors(sources: Mapping[str, str]) -> list[str]:
    """Doors that nobody goes through: a permission that has outlived its reason."""
    opened = {
        (library, module)
        for module, source in sources.items()
        for imported in _imports(module, ast.parse(source, module))
        for library in DOORS
        if _within(imported.name, library)
    }
    return sorted(f"{m} -> {lib}" for lib, doors in DOORS.items() for m in doors.split() if (lib, m) not in opened)


def size_violations(path: str, source: str) -> list[str]:
    """Files and functions that are too long to read at once."""
    lines = len(source.splitlines())
    found = [f"{path}: {lines} lines, at most {MAX_FILE_LINES}"] if lines > MAX_FILE_LINES else []
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}")
    return found


def _imports(module: str, tree: ast.Module) -> Iterator[Import]:
    """Every import, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, relative=False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = [*parents, *([node.module] if node.module else [])]
            for alias in node.names:
                yield Import(node.lineno, ".".join([*base, alias.name]), relative=node.level > 0)


def _own_fault(module: str, imported: Import) -> str | None:
    allowed = [prefix for pattern, row in ACROSS.items() if fnmatchcase(module, pattern) for prefix in row]
    if any(_within(imported.name, prefix) for prefix in allowed):
        return None
    if imported.top != module.partition(".")[0]:
        return f"may not import {imported.name}"
    if not imported.relative:
        return f"imports {imported.name} of its own package; make it relative"
    package = _package_of_both(module, imported.name)
    above, below = _row(module, package), _row(imported.name, package)
    if below is None:
        return f"imports {imported.name}, which has no place in LAYERS"
    if above is not None and below <= above:
        return f"imports {imported.name}, which does not stand below it"
    return None


def _package_of_both(module: str, other: str) -> str:
    """The innermost package that holds both."""
    return max((package for package in LAYERS if _within(module, package) and _within(other, package)), key=len)


def _row(name: str, package: str) -> int | None:
    """Where in `package` its module or package stands that `name` is, or is within; counted from the top."""
    child = name.removeprefix(f"{package}.").partition(".")[0]
    return next((i for i, row in enumerate(LAYERS.get(package, ())) if child in row.split()), None)


def _door_fault(module: str, name: str) -> str | None:
    library = next((library for library in DOORS if _within(name, library)), None)
    if library is None:
        return f"imports {name}, which DOORS does not list"
    if module not in DOORS[library].split():
        return f"imports {name}; {library} is opened only by {DOORS[library]}"
    return None


def _purity_fault(imported: Import) -> str | None:
    if imported.top in PURE_MAY_IMPORT or any(_within(imported.name, module) for module in PURE):
        return None
    return f"imports {imported.name}, but does no I/O, reads no clock, starts no thread"


def _call_faults(module: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in HIDDEN_IMPORTS:
            yield node.lineno, f"calls {called}, which hides an import"
        if module in PURE and isinstance(node.func, ast.Name) and called in IMPURE_BUILTINS:
            yield node.lineno, f"calls {called}, but does no I/O"


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
