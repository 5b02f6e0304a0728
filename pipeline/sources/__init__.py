"""The places of images that a manifest may name."""

from typing import TypeAlias

from pipeline.sources.folder import Folder
from pipeline.sources.tar import Tar

ImageSourceConfig: TypeAlias = Folder | Tar
