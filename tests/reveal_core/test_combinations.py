"""Any backbone with any loss; new members of both unions are picked up by themselves."""

from __future__ import annotations

import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from reveal_core.backbones import BackboneConfig
from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.avl import Avl, AvlConfig
from reveal_core.batches import TrainingBatches
from reveal_core.losses import LossConfig
from reveal_core.losses.softmax import Softmax
from reveal_core.model import SequenceRecommender
from reveal_core.sequences import Sequences
from reveal_core.steps import Learner, make_optimizer, train_step

BACKBONES: tuple[type[Any], ...] = typing.get_args(BackboneConfig)
LOSSES: tuple[type[Any], ...] = typing.get_args(LossConfig)


#: Every backbone with the softmax and every loss with SASRec; all the others are slow.
PAIRS = [
    pytest.param(
        backbone,
        loss,
        marks=() if backbone is SasRec or loss is Softmax else pytest.mark.slow,
        id=f"{loss.__name__}-{backbone.__name__}",
    )
    for loss in LOSSES
    for backbone in BACKBONES
]


@pytest.mark.parametrize(("backbone", "loss"), PAIRS)
def test_they_learn_and_are_balanced_together(
    multimodal: Callable[..., SequenceRecommender], histories: Sequences, backbone: type[Any], loss: type[Any]
) -> None:
    model, avl = multimodal(backbone=backbone(), loss=loss()), Avl(AvlConfig(enabled=True, every=5))
    learner = Learner(make_optimizer(model, 0.01, 0.5, 0.0), avl)
    batch = TrainingBatches(histories, 5, 1000, seed=0).epoch(0)[0]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = [float(train_step(model, learner, batch, seed=step, number=step).loss) for step in range(20)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert avl.state.readings == 4
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
