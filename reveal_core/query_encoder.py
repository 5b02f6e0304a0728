"""From a history to a query vector, as one module without the item tower, and as an ONNX file.

B histories of L places, padded on the right with 0; N items; I the width of what is read of an item, C of a query.
"""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reveal_core.batches import Padded
from reveal_core.errors import UserError, first_reason
from reveal_core.model import SequenceRecommender

#: Of the file's inputs, in this order, and of its output.
INPUTS, OUTPUT = ("item_seq", "seq_len", "times"), "query"
#: Who tells of every step of an export.
_LOUD = ("onnxscript", "onnx_ir", "torch.onnx")


class QueryEncoder(nn.Module):
    """What :meth:`SequenceRecommender.query_vectors` computes, with what is known of the items in one table."""

    table_NI: Tensor  # noqa: N815

    def __init__(self, model: SequenceRecommender) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.with_times: bool = model.config.backbone.needs_times
        with torch.inference_mode():
            table_NI = model.backbone.items(model.tower(model.all_items)).inputs
        self.register_buffer("table_NI", table_NI.clone())

    def forward(self, item_seq: Tensor, seq_len: Tensor, times: Tensor | None = None) -> Tensor:
        """(B, C)

        Args:
            item_seq: (B, L) int64, oldest first.
            seq_len: (B,) int64, at least 1.
            times: (B, L) int64, ms since 1970 UTC; for a backbone that reads them.
        """
        asked = self.backbone.to_ask(Padded(item_seq=item_seq, seq_len=seq_len, times=times))
        return self.backbone.last(functional.embedding(asked.item_seq, self.table_NI), asked)

    def query_vectors(self, histories: Padded) -> Tensor:
        """(B, C)"""
        queries_BC: Tensor = self(histories.item_seq, histories.seq_len, histories.times)
        return queries_BC


def write_onnx(model: SequenceRecommender, path: Path) -> None:
    """The query encoder as an ONNX file: any number B of histories, of L = ``max_seq_len`` places each.

    Args:
        model: stays as it is.

    Raises:
        UserError: a package is missing, or the backbone cannot be written so.
    """
    try:
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it and says so in many lines
    except ImportError:
        mend = "pip install 'reveal-recsys[export]'"
        raise UserError("the package onnxscript is not installed", where="onnx", mend=mend) from None
    encoder = copy.deepcopy(QueryEncoder(model)).cpu().eval().requires_grad_(False)
    length, kind = model.config.max_seq_len, model.config.backbone.kind
    # One tensor given as two inputs would become one input.
    item_seq, times = (torch.ones(2, length, dtype=torch.int64) for _ in range(2))
    example = (item_seq, torch.full((2,), length), *([times] if encoder.with_times else []))
    rows = {0: torch.export.Dim("histories")}
    levels = {name: logging.getLogger(name).level for name in _LOUD}
    try:
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                encoder,
                example,
                dynamo=True,
                input_names=INPUTS[: len(example)],
                output_names=[OUTPUT],
                dynamic_shapes=(rows,) * len(example),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        what = f"{kind} cannot be written as ONNX: {first_reason(error)}"
        raise UserError(what, where="model.backbone.kind") from None
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    assert program is not None
    program.save(path, external_data=False)
