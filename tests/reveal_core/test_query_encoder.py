"""The query encoder against the model that it is taken from, for every backbone."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reveal_core.backbones import BackboneConfig
from reveal_core.batches import Padded
from reveal_core.errors import UserError
from reveal_core.model import SequenceRecommender
from reveal_core.query_encoder import INPUTS, QueryEncoder, write_onnx

BACKBONES: tuple[type[Any], ...] = typing.get_args(BackboneConfig)
LENGTH = 5
#: Histories of 5, 1 and 3 items.
ITEM_SEQ = torch.tensor([[3, 9, 1, 4, 7], [12, 0, 0, 0, 0], [2, 2, 15, 0, 0]])
SEQ_LEN = torch.tensor([5, 1, 3])
TIMES = (1_600_000_000_000 + 90_000_000 * torch.arange(LENGTH)) * (ITEM_SEQ > 0)


@pytest.fixture(params=BACKBONES, ids=lambda config: config.__name__)
def model(request: pytest.FixtureRequest, multimodal: Callable[..., SequenceRecommender]) -> SequenceRecommender:
    return multimodal(backbone=request.param()).eval()


def queries(model: SequenceRecommender) -> torch.Tensor:
    with torch.inference_mode():
        return model.query_vectors(Padded(item_seq=ITEM_SEQ, seq_len=SEQ_LEN, times=TIMES))


def test_it_is_the_model_without_its_tower(model: SequenceRecommender) -> None:
    with torch.inference_mode():
        found = QueryEncoder(model)(ITEM_SEQ, SEQ_LEN, TIMES)
    torch.testing.assert_close(found, queries(model))


@pytest.mark.slow
def test_onnxruntime_computes_the_same(model: SequenceRecommender, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the dev extra is not installed")
    write_onnx(model, tmp_path / "query.onnx")
    assert all(parameter.requires_grad for parameter in model.parameters())
    session = onnxruntime.InferenceSession(tmp_path / "query.onnx")
    names = INPUTS if model.config.backbone.needs_times else INPUTS[:2]
    assert [one.name for one in session.get_inputs()] == list(names)
    given = dict(zip(INPUTS, (ITEM_SEQ, SEQ_LEN, TIMES), strict=True))
    for rows in ([0, 1, 2], [1], [2, 0, 1, 1, 2]):
        (found,) = session.run(None, {name: given[name][rows].numpy() for name in names})
        torch.testing.assert_close(torch.from_numpy(found), queries(model)[rows], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_written_is_one_line(
    multimodal: Callable[..., SequenceRecommender], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="the dev extra is not installed")

    def refuse(*arguments: object, **settings: object) -> None:
        raise torch.onnx.OnnxExporterError("Failed:\nno operator for this")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(UserError, match="sasrec cannot be written as ONNX: no operator for this"):
        write_onnx(multimodal().eval(), tmp_path / "query.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript is not installed \(pip install 'reveal-recsys\[export\]'"):
        write_onnx(multimodal().eval(), tmp_path / "query.onnx")
    assert not list(tmp_path.iterdir())
