"""The layers hold: who may import whom, what stays light, and every example in a docstring runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("reveal_core", "pipeline", "cli")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
#: What a package must never import, at any depth of its code.
FORBIDDEN = {
    "reveal_core": {"pipeline", "cli", "click", "pydantic", "yaml", "dask", "rich"},
    "pipeline": {"cli", "click", "rich"},
    "cli": set(),
}
#: Folders whose files do not know each other; `base` is what they share.
SIBLINGS = (
    "reveal_core/encoders",
    "reveal_core/backbones",
    "reveal_core/losses",
    "reveal_core/balance",
    "reveal_core/extraction/critics",
    "pipeline/adapters",
    "pipeline/executors",
    "pipeline/sources",
    "pipeline/trackers",
    "pipeline/stages",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    forbidden = FORBIDDEN[path.relative_to(ROOT).parts[0]]
    assert not {name for name in imports(path) if name.split(".")[0] in forbidden}


@pytest.mark.parametrize("folder", SIBLINGS)
def test_siblings_do_not_import_each_other(folder: str) -> None:
    package = folder.replace("/", ".")
    names = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__", "base"}
    assert names
    for path in (ROOT / folder).glob("*.py"):
        if path.stem != "__init__":
            assert not imports(path) & {f"{package}.{name}" for name in names - {path.stem}}, path


@pytest.mark.parametrize("name", ["runner", "artifacts", "fingerprint"])
def test_the_stage_graph_knows_no_stage_and_no_adapter(name: str) -> None:
    found = imports(ROOT / "pipeline" / f"{name}.py")
    assert not {module for module in found if module.startswith(("pipeline.stages", "pipeline.adapters"))}


def test_help_stays_light() -> None:
    code = "import sys, cli.main; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "transformers", "polars", "pyarrow", "pydantic", "yaml", "rich", "numpy", "PIL"}
    assert not heavy & set(ast.literal_eval(loaded))


@pytest.mark.parametrize("path", [p for p in MODULES if ">>>" in p.read_text()], ids=module_name)
def test_examples_in_docstrings_run(path: Path) -> None:
    result = doctest.testmod(importlib.import_module(module_name(path)), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
