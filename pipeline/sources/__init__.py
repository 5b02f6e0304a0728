"""The places of images that a manifest may name."""

from typing import TypeAlias

from pipeline.sources.folder import Folder
from pipeline.sources.tar import Tar
from pipeline.sources.urls import Urls

ImageSourceConfig: TypeAlias = Folder | Tar | Urls
