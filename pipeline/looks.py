"""What looks at images have shown, kept for as long as their files stay as they were."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import FileDigests, digest_json
from reveal_core.disk import atomic_path
from reveal_core.images import ImageCheck
from reveal_core.schema import IMAGES

#: What a look shows: columns of images.parquet.
SEEN = {name: IMAGES[name] for name in ("status", "detail", "sha256", "num_bytes", "width", "height", "format")}
_SCHEMA = {"name": pl.String(), "stamp": pl.String(), **SEEN}
#: From so many on, looks are moved out of the database.
_MANY = 1 << 14
_log = logging.getLogger("reveal")


class Looks:
    """What is known of the images below one folder.

    A new one goes to the database of :class:`pipeline.files.FileDigests`, so that a kill costs none that was noted;
    many of them are packed into one Parquet file, which is read ten times as fast. Only a cache: what is damaged or
    gone is looked at again.

    Args:
        root: folder of the packed files.
        kind: how they are looked at.
        base: the folder, absolute; an image's ``name`` is relative to it.
    """

    def __init__(self, root: Path, kind: str, base: str, digests: FileDigests) -> None:
        self._file = root / f"{digest_json([kind, base])[:32]}.parquet"
        self._kind, self._base, self._digests = kind, base, digests
        self._loose = 0

    def known(self) -> pl.DataFrame:
        """``name``, ``stamp`` and the columns of :data:`SEEN` of all of them."""
        packed, rows = self._packed(), self._digests.recall_all(self._kind, self._base)
        self._loose = rows.height
        if rows.is_empty():
            return packed
        names = rows.select(pl.col("path").str.slice(len(self._base) + 1).alias("name"), "stamp")
        loose = pl.concat([names, _unpacked(rows["fact"])], how="horizontal")
        return pl.concat([packed.join(loose, on="name", how="anti"), loose])

    def remember(self, names: pl.DataFrame, found: Sequence[ImageCheck]) -> None:
        """Keep what looks have shown.

        Args:
            names: ``name`` of each image, and ``stamp`` taken before the look.
        """
        facts = (json.dumps(asdict(check)) for check in found)
        rows = zip(names.iter_rows(), facts, strict=True)
        self._digests.remember(self._kind, [(f"{self._base}/{name}", stamp, fact) for (name, stamp), fact in rows])
        self._loose += len(found)

    def pack(self) -> None:
        """Move them out of the database, if they are many."""
        if self._loose < _MANY:
            return
        table = self.known().to_arrow(compat_level=pl.CompatLevel.oldest())
        try:
            with atomic_path(self._file) as temporary:
                pq.write_table(table, temporary, compression="zstd", use_dictionary=False, write_page_checksum=True)
        except OSError as error:  # a full disk will be told by whoever writes what counts
            _log.debug("%s", error)
            return
        self._digests.forget(self._kind, self._base)

    def _packed(self) -> pl.DataFrame:
        none = pl.DataFrame(schema=_SCHEMA)
        try:
            table = pq.read_table(self._file, page_checksum_verification=True)
            return none.vstack(pl.DataFrame(table))
        except FileNotFoundError:
            return none
        except (pa.ArrowException, OSError, pl.exceptions.PolarsError) as error:
            _log.warning("%s is damaged: its images are looked at again: %s", self._file, str(error).splitlines()[0])
            return none


def _unpacked(facts: pl.Series) -> pl.DataFrame:
    """The columns of looks from how the database keeps them."""
    # A line each: measured, that is three times as fast as decoding a column.
    blocks = ("\n".join(facts[start : start + _MANY]).encode() for start in range(0, len(facts), _MANY))
    return pl.concat([pl.DataFrame(schema=SEEN), *(pl.read_ndjson(block, schema=SEEN) for block in blocks)])
