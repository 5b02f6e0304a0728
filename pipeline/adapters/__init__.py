"""The raw formats a manifest may name."""

from typing import TypeAlias

from pipeline.adapters.amazon2014 import Amazon2014
from pipeline.adapters.hm import HM
from pipeline.adapters.movielens import MovieLens
from pipeline.adapters.table import Table

AdapterConfig: TypeAlias = MovieLens | Table | Amazon2014 | HM
