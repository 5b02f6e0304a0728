"""The backbones: the union of their configs is the registry."""

from __future__ import annotations

from reveal_core.backbones.sasrec import SasRec

BackboneConfig = SasRec
