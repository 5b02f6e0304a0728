"""The tutorial runs: its cells one after the other here, and as people run it in a kernel of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_run import TinyRun

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/tutorial.ipynb"


@pytest.fixture
def a_run(tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last section opens."""
    monkeypatch.setenv("REVEAL_RUN", str(tiny_run.root / "work/runs/tiny"))


def test_its_cells_run(a_run: None) -> None:
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    metrics = names["trained"].metrics
    blind, popular = metrics["without"]["image"]["test"], metrics["baselines"]["popularity"]
    assert metrics["test"]["ndcg@10"] > 1.2 * blind["ndcg@10"] > popular["ndcg@10"]
    assert names["why"].everywhere["image"] > names["why"].everywhere["id"]


def test_it_holds_no_results() -> None:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_runs_in_a_kernel(a_run: None, tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="the dev extra is not installed")
    nbformat = pytest.importorskip("nbformat", reason="the dev extra is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    tables = [cell.outputs[0].data["text/html"] for cell in notebook.cells if "table(" in cell.source]
    assert len(tables) == 5
