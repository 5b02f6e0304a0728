"""The losses: the union of their configs is the registry."""

from __future__ import annotations

from reveal_core.losses.bce import Bce, Gbce
from reveal_core.losses.bpr import Bpr
from reveal_core.losses.sampled_softmax import SampledSoftmax
from reveal_core.losses.softmax import Softmax

LossConfig = Softmax | SampledSoftmax | Bce | Gbce | Bpr
