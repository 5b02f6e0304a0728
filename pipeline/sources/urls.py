"""Images at the addresses that the catalogue names, fetched into the work folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.download.ledger import Ledger, Outcome
from pipeline.download.settings import DownloadSettings
from pipeline.files import FileDigests
from pipeline.sources.base import Candidate, Found, ImageSource, Wanted, candidates, downloads_folder
from pipeline.stage import Workspace
from reveal_core.errors import UserError
from reveal_core.images import Status
from reveal_core.schema import IMAGE_URLS, ITEM_INDEX


@dataclass(frozen=True, kw_only=True)
class Urls(ImageSource, DownloadSettings):
    """The column image_urls of items.parquet. Only what is not in the work folder yet is fetched."""

    kind: Literal["urls"] = "urls"

    def base_folder(self, root: Path) -> None:
        return None

    def columns(self) -> Sequence[str]:
        return (IMAGE_URLS,)

    def check(self) -> None:
        try:
            import httpx2  # noqa: F401
        except ImportError:
            mend = "pip install 'reveal-recsys[download]'"
            raise UserError("the package httpx2 is not installed", where="data.images.source", mend=mend) from None

    def external(self, folder: Path | None, digests: FileDigests) -> dict[str, str]:
        return {}  # whether an image changed on its server is asked when `refresh` says so

    def find(self, wanted: Wanted, folder: Path | None, work: Workspace) -> Found:
        listed = wanted.items[IMAGE_URLS].to_list()
        urls_by_item = [list(dict.fromkeys(urls or ()))[: 1 if wanted.first_only else None] for urls in listed]
        asked = list(dict.fromkeys(url for urls in urls_by_item for url in urls))
        if not asked:
            mend = "name their column: data.adapter.items.image_urls"
            raise UserError("no item has the address of an image", where="data.images.source", mend=mend)
        with closing(self._ledger(work.cache_dir)) as ledger:
            max_bytes = wanted.limits.max_bytes
            due = [url for url in asked if ledger.due(url, self._rule(max_bytes))]
            with work.progress.track("download", len(due)) as advance:
                asyncio.run(self._fetch(due, ledger, max_bytes, advance))
            by_item = zip(wanted.items[ITEM_INDEX], urls_by_item, strict=True)
            return Found(candidates([_candidate(index, url, ledger) for index, urls in by_item for url in urls]))

    def listed(self, items: pl.DataFrame, folder: Path | None) -> npt.NDArray[np.bool_]:
        return (items[IMAGE_URLS].list.len().fill_null(0) > 0).to_numpy()

    def settle(self, looked: pl.DataFrame, folder: Path | None, work: Workspace) -> list[str]:
        fetched = looked.filter(pl.col("path").is_not_null())
        with closing(self._ledger(work.cache_dir)) as ledger:
            damaged = sum(_reject(ledger, *row) for row in fetched.select(*_JUDGED).iter_rows())
            again = len(ledger.to_ask_again().intersection(looked["origin"]))
        if not (looked["status"] == "ok").any():
            status, detail = looked.select("status", "detail").row(0)
            mend = "data.images.source.allow_private: true, if that is meant" if status == "refused" else ""
            what = f"none of {len(looked)} images could be fetched; the first is {status}: {detail}"
            raise UserError(what, where="data.images.source", mend=mend)
        warnings = []
        if damaged:
            warnings.append(f"{damaged} downloaded files are damaged: the next run fetches them anew")
        if again:
            warnings.append(f"{again} images could not be fetched: the next run asks for them again")
        return warnings

    def unfinished(self, images: Path, cache_dir: Path) -> str | None:
        rows = pl.read_parquet(images, columns=["origin", "path"])
        downloads = downloads_folder(cache_dir)
        gone = sum(not (downloads / path).exists() for path in rows["path"].drop_nulls().unique())
        if gone:
            return f"{gone} downloaded files are gone"
        with closing(self._ledger(cache_dir)) as ledger:
            again = len(ledger.to_ask_again().intersection(rows["origin"]))
        return f"{again} images could not be fetched and are asked for again" if again else None

    def _ledger(self, cache_dir: Path) -> Ledger:
        return Ledger(downloads_folder(cache_dir), self)

    def _rule(self, max_bytes: int) -> str:
        """What an image is refused under, or found too large."""
        return f"max_bytes {max_bytes}, allow_private {self.allow_private}"

    async def _fetch(self, urls: Sequence[str], ledger: Ledger, max_bytes: int, advance: Callable[[int], None]) -> None:
        from pipeline.download.crawl import Crawl
        from pipeline.download.fetching import Fetcher, host_of

        def done(url: str, outcome: Outcome) -> None:
            ledger.record(url, outcome, self._rule(max_bytes))
            advance(1)

        ledger.clear_partial()
        async with aclosing(Fetcher(self, max_bytes, ledger)) as fetcher:
            await Crawl(self, fetcher.fetch, done).run((host_of(url), url) for url in urls)
        ledger.clear_partial()


def _candidate(item_index: int, url: str, ledger: Ledger) -> Candidate:
    entry = ledger.entry(url)
    assert entry is not None
    if entry.path is not None:
        return Candidate(item_index, entry.path, origin=url)
    return Candidate(item_index, None, origin=url, status=entry.status, detail=entry.detail)


#: What :func:`_reject` is told of a candidate.
_JUDGED = ("origin", "path", "sha256", "status", "detail")


def _reject(ledger: Ledger, url: str, path: str, sha256: str | None, status: Status, detail: str | None) -> bool:
    """Tell the ledger of what was fetched and is no usable image; whether it is not even what was fetched."""
    damaged = sha256 is not None and not path.endswith(sha256)
    if damaged:
        (ledger.folder / path).unlink(missing_ok=True)
    if damaged or status in ("unreadable", "empty", "missing"):
        ledger.reject(url, status, detail)
    return damaged
