"""The raw formats a manifest may name."""

from typing import TypeAlias

from pipeline.adapters.amazon2014 import Amazon2014
from pipeline.adapters.amazon2018 import Amazon2018
from pipeline.adapters.amazon2023 import Amazon2023
from pipeline.adapters.hm import HM
from pipeline.adapters.microlens import MicroLens
from pipeline.adapters.mind import Mind
from pipeline.adapters.mmrec import MmRec
from pipeline.adapters.movielens import MovieLens
from pipeline.adapters.pixelrec import PixelRec
from pipeline.adapters.recbole import RecBole
from pipeline.adapters.s3rec import S3Rec
from pipeline.adapters.table import Table

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
