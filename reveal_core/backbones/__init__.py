"""The backbones: the union of their configs is the registry."""

from __future__ import annotations

from reveal_core.backbones.bert4rec import Bert4Rec
from reveal_core.backbones.gru4rec import Gru4Rec
from reveal_core.backbones.hm4sr import Hm4Sr
from reveal_core.backbones.m3srec import M3SRec
from reveal_core.backbones.missrec import Missrec
from reveal_core.backbones.sasrec import SasRec

BackboneConfig = SasRec | Gru4Rec | Bert4Rec | M3SRec | Missrec | Hm4Sr
