"""The raw formats a manifest may name."""

from pathlib import Path
from typing import TypeAlias, get_args

from pipeline.adapters.amazon2014 import Amazon2014
from pipeline.adapters.amazon2018 import Amazon2018
from pipeline.adapters.amazon2023 import Amazon2023
from pipeline.adapters.base import Adapter
from pipeline.adapters.hm import HM
from pipeline.adapters.microlens import MicroLens
from pipeline.adapters.mind import Mind
from pipeline.adapters.mmrec import MmRec
from pipeline.adapters.movielens import MovieLens
from pipeline.adapters.pixelrec import PixelRec
from pipeline.adapters.recbole import RecBole
from pipeline.adapters.s3rec import S3Rec
from pipeline.adapters.table import Table
from reveal_core.errors import UserError

AdapterConfig: TypeAlias = (
    MovieLens
    | Amazon2014
    | Amazon2018
    | Amazon2023
    | HM
    | MicroLens
    | PixelRec
    | Mind
    | MmRec
    | RecBole
    | S3Rec
    | Table
)


def recognised(root: Path) -> list[Adapter]:
    """The formats that a folder of files looks made for: each adapter says so for itself."""
    found = [_recognised(adapter, root) for adapter in get_args(AdapterConfig)]
    return [adapter for adapter in found if adapter is not None]


def _recognised(adapter: type[Adapter], root: Path) -> Adapter | None:
    try:
        return adapter.recognise(root)
    except UserError:
        return None  # a file that cannot be read is of no format
