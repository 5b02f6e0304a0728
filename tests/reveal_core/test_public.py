"""What `import reveal_core` offers: light, complete, and each with an example (which test_structure runs)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import reveal_core

NAMES = sorted(reveal_core._WHERE)


def test_it_is_light_until_something_is_asked_for() -> None:
    code = "import sys, reveal_core; dir(reveal_core); print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "polars", "numpy", "pyarrow", "PIL"} & set(loaded)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_has_an_example(name: str) -> None:
    assert name in dir(reveal_core)
    assert ">>> " in (getattr(reveal_core, name).__doc__ or "")


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(str(reveal_core.__file__)).read_text())
    found = {
        alias.asname: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("reveal_core")
        for alias in node.names
    }
    assert found == {name: f"reveal_core.{module}" for name, module in reveal_core._WHERE.items()}


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'recommend'"):
        reveal_core.recommend  # noqa: B018
