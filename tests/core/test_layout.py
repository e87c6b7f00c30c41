"""The house: which room may import which. Reads source files only; runs nothing of them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "laser_core"

# From the ground floor up: a room imports from its own floor and from those below it.
FLOORS = (
    "", "models", "engine", "steps", "pipeline", "output", "recipes", "many", "evaluation",
    "command_line",
)  # fmt: skip


def imports_of(path: Path) -> set[str]:
    """Modules of laser_core that a file imports anywhere, type hints included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        bases, names = [], []
        if isinstance(node, ast.Import):
            bases = [ROOT.joinpath(*alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[node.level - 1] if node.level else ROOT
            bases = [folder.joinpath(*(node.module or "").split("."))]
            names = [alias.name for alias in node.names]
        for module in [*bases, *(base / name for base in bases for name in names)]:
            if module.is_relative_to(PACKAGE) and module.with_suffix(".py").is_file():
                found.add(module.relative_to(PACKAGE).as_posix())
    return found


@cache
def graph() -> dict[str, set[str]]:
    paths = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")]
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): imports_of(path) for path in paths
    }


def floor_of(module: str) -> int:
    room = module.split("/")[0] if "/" in module else ""
    return FLOORS.index("pipeline" if module == "pipeline" else room)


def test_nothing_imports_upward():
    upward = [
        f"{module} -> {other}"
        for module, others in graph().items()
        for other in others
        if floor_of(other) > floor_of(module)
    ]
    assert not upward


def test_no_module_imports_itself_by_way_of_others():
    edges = graph()
    reached = {module: set(others) for module, others in edges.items()}
    for _ in edges:
        for others in reached.values():
            others |= {far for near in others for far in edges[near]}
    assert not [module for module, others in reached.items() if module in others]


def test_steps_do_not_import_each_other():
    between = [
        f"{module} -> {other}"
        for module, others in graph().items()
        for other in others
        if module.startswith("steps/") and other.startswith("steps/")
    ]
    assert not between


def test_tools_import_no_tests():
    importing = [
        path.name
        for path in (ROOT / "tools").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        if name.split(".")[0] == "tests"
    ]
    assert not importing


def test_the_core_imports_no_node():
    """A relative import may climb out of laser_core, which the linter's list of names misses."""
    for path in PACKAGE.rglob("*.py"):
        deepest = len(path.relative_to(PACKAGE).parts)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not isinstance(node, ast.ImportFrom) or node.level <= deepest, path
