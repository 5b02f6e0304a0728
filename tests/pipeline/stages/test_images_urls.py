"""Images from the network, through the whole stage: what is asked for again, what is not, and what a kill costs."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.download import crawl
from pipeline.sources.urls import Urls
from pipeline.stages.encode import Encode
from pipeline.stages.images import Images
from reveal_core.config import result_settings
from reveal_core.encoders.fake import Fake
from reveal_core.errors import UserError
from reveal_core.images import ImageLimits
from tests import misbehaving as bad
from tests.misbehaving import Server, picture

QUICK: dict[str, Any] = {"allow_private": True, "read_s": 1.0, "total_s": 2.0, "retries": 1, "runs": 2}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawl, "FIRST_WAIT", 0.001)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


class Shelf:
    """A catalogue whose items have addresses, and the images stage over it."""

    def __init__(self, bench: Any, urls: Sequence[Sequence[str]]) -> None:
        self.bench = bench
        ids = [f"i{number}" for number in range(len(urls))]
        self.ingest = bench.items(ids, image_urls=[list(several) for several in urls])

    def stage(self, use: str = "first", limits: ImageLimits | None = None, **options: Any) -> Images:
        return Images(source=Urls(**{**QUICK, **options}), use=use, limits=limits or ImageLimits())  # type: ignore[arg-type]

    def look(self, **options: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
        out, report = self.bench.run(self.stage(**options), {"ingest": self.ingest})
        self.images = out
        return pl.read_parquet(out / "images.parquet"), report

    def unfinished(self, **options: Any) -> str | None:
        return self.stage(**options).unfinished(self.images, self.bench.root / "cache")

    def downloaded(self) -> list[Path]:
        return [path for path in (self.bench.root / "cache/downloads").glob("??/*") if path.is_file()]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_images_are_fetched_once_and_filed_by_their_digest(bench: Any, server: Server) -> None:
    server.behaviours |= {"/a": bad.sends(picture()), "/b": bad.sends(picture()), "/c": bad.sends(picture(3))}
    shelf = Shelf(bench, [[f"{server.url}/a"], [f"{server.url}/b"], [f"{server.url}/c", f"{server.url}/a"], []])
    table, report = shelf.look()
    assert table["status"].to_list() == ["ok", "ok", "ok", "missing"]
    assert table["origin"].to_list() == [f"{server.url}/a", f"{server.url}/b", f"{server.url}/c", None]
    assert table["sha256"].to_list() == [sha(picture()), sha(picture()), sha(picture(3)), None]
    assert table["path"].to_list()[2] == f"{sha(picture(3))[:2]}/{sha(picture(3))}"
    assert len(shelf.downloaded()) == 2
    assert (report["ok"], report["missing"]) == (3, 1)
    assert shelf.unfinished() is None
    first = (shelf.images / "images.parquet").read_bytes()
    shelf.look()
    assert (shelf.images / "images.parquet").read_bytes() == first
    assert len(server.asked) == 3
    assert bench.progress.announced["download"] == 0


def test_they_are_encoded_like_any_others(bench: Any, server: Server) -> None:
    server.behaviours |= {f"/{number}": bad.sends(picture(number)) for number in range(5)}
    shelf = Shelf(bench, [[f"{server.url}/{number}"] for number in range(5)])
    shelf.look()
    given = {"ingest": shelf.ingest, "images": shelf.images}
    out, report = bench.run(Encode(encoder=Fake(batch_size=2), workers=0), given)
    assert report["encoded"] == 5
    assert pl.read_parquet(out / "item_features.parquet")["image_vector"].null_count() == 0


def test_every_failure_has_a_status_and_stops_nothing(bench: Any, server: Server) -> None:
    ways: dict[str, tuple[bad.Behaviour, str]] = {
        "good": (bad.sends(picture()), "ok"),
        "gone": (bad.gone, "missing"),
        "forbidden": (bad.says(403), "failed"),
        "busy": (bad.says(500), "failed"),
        "silent": (bad.silent, "failed"),
        "resets": (bad.resets, "failed"),
        "html": (bad.sends(b"<html>", Content_Type="text/html"), "unreadable"),
        "cut": (bad.truncated_silently, "unreadable"),
        "empty": (bad.sends(b""), "empty"),
        "endless": (bad.endless, "too_large"),
        "pixels": (bad.sends(bad.saved(bad.plain(300, 300), "PNG")), "too_large"),
        "loop": (bad.redirects("/loop"), "failed"),
        "file": (bad.redirects("file:///etc/passwd"), "refused"),
    }
    server.behaviours |= {f"/{name}": behaviour for name, (behaviour, _) in ways.items()}
    urls = [*(f"{server.url}/{name}?key=secret" for name in ways), "ftp://a.example/1.jpg", "no address"]
    shelf = Shelf(bench, [[url] for url in urls])
    table, report = shelf.look(limits=ImageLimits(max_bytes=100_000, max_pixels=80_000))
    assert table["status"].to_list() == [*(status for _, status in ways.values()), "refused", "refused"]
    bad_rows = table.filter(pl.col("status") != "ok")
    assert bad_rows["detail"].null_count() == 0
    assert not table.filter(pl.col("status") != "ok")["used"].any()
    assert report["failed"] == 5
    assert report["refused"] == 3
    assert any("the next run asks for them again" in line for line in report["warnings"])
    assert not any("secret" in line for line in report["warnings"]), "what follows the question mark may be a key"


def test_only_what_failed_is_asked_for_again_and_not_for_ever(bench: Any, server: Server) -> None:
    server.behaviours |= {
        "/a": bad.sends(picture()),
        "/gone": bad.gone,
        "/b": bad.says(500),
        "/c": bad.truncated_silently,
    }
    shelf = Shelf(bench, [[f"{server.url}/{name}"] for name in ("a", "gone", "b", "c")])
    table, _ = shelf.look()
    assert table["status"].to_list() == ["ok", "missing", "failed", "unreadable"]
    assert shelf.unfinished() == "2 images could not be fetched and are asked for again"
    server.asked.clear()
    server.behaviours["/b"] = bad.sends(picture(1))
    table, _ = shelf.look()
    assert table["status"].to_list() == ["ok", "missing", "ok", "unreadable"]
    assert server.counts == {"/b": 1, "/c": 1}
    assert shelf.unfinished() is None, "two runs, as `runs` says"
    assert shelf.unfinished(runs=3) is not None
    server.asked.clear()
    shelf.look()
    assert server.asked == []


def test_an_outage_uses_up_no_tries(bench: Any, server: Server) -> None:
    """There is no connection for more runs than an image is asked for in."""
    with Server() as away:
        shelf = Shelf(bench, [[f"{server.url}/0"], *([f"{away.url}/{number}"] for number in range(30))])
    server.behaviours["/0"] = bad.sends(picture())
    for _ in range(3):
        table, report = shelf.look()
        assert table["status"].to_list() == ["ok"] + ["failed"] * 30
        assert "30 images could not be fetched: the next run asks for them again" in report["warnings"]
    with Server(port=away.server_port) as back:
        back.behaviours |= {f"/{number}": bad.sends(picture(number)) for number in range(30)}
        assert shelf.look()[0]["status"].to_list() == ["ok"] * 31
    assert shelf.unfinished() is None
    assert server.counts == {"/0": 1}


def test_what_a_broken_server_was_not_asked_for_keeps_its_tries(bench: Any, server: Server) -> None:
    shelf = Shelf(bench, [[f"{server.url}/{number}"] for number in range(30)])
    server.behaviours |= {f"/{number}": bad.says(503) for number in range(30)}
    for _ in range(2):
        with pytest.raises(UserError, match="none of 30 images could be fetched"):
            shelf.look()
    asked_twice = {path for path, count in server.counts.items() if count == 2 * (1 + QUICK["retries"])}
    assert 0 < len(asked_twice) < 20
    server.behaviours |= {f"/{number}": bad.sends(picture(number)) for number in range(30)}
    table, _ = shelf.look()
    assert table["status"].to_list() == ["failed" if f"/{number}" in asked_twice else "ok" for number in range(30)]


def test_retries_within_a_run(bench: Any, server: Server) -> None:
    server.behaviours |= {
        "/a": bad.in_turn(bad.says(503), bad.sends(picture())),
        "/b": bad.in_turn(bad.says(429, Retry_After="0"), bad.sends(picture(1))),
        "/c": bad.in_turn(bad.resets, bad.sends(picture(2))),
        "/d": bad.in_turn(bad.truncated, bad.sends(picture(3))),
    }
    table, _ = Shelf(bench, [[f"{server.url}/{name}"] for name in "abcd"]).look()
    assert table["status"].to_list() == ["ok"] * 4
    assert set(server.counts.values()) == {2}


def test_a_refresh_asks_whether_images_changed_and_keeps_copies(bench: Any, server: Server) -> None:
    server.behaviours |= {name: bad.tagged(picture(number)) for number, name in enumerate(["/a", "/b", "/c", "/d"])}
    shelf = Shelf(bench, [[f"{server.url}/{name}"] for name in "abcd"])
    before, _ = shelf.look()
    server.asked.clear()
    server.behaviours |= {"/b": bad.tagged(picture(9), '"v2"'), "/c": bad.says(500), "/d": bad.gone}
    after, _ = shelf.look(refresh="spring")
    assert server.counts == {"/a": 1, "/b": 1, "/c": 2, "/d": 1}
    assert all(asked.headers["if-none-match"] == '"v1"' for asked in server.asked)
    assert after["sha256"].to_list() == [before["sha256"][0], sha(picture(9)), before["sha256"][2], None]
    assert after["status"].to_list() == ["ok", "ok", "ok", "missing"]
    assert shelf.unfinished(refresh="spring") == "1 images could not be fetched and are asked for again"
    server.asked.clear()
    server.behaviours["/c"] = bad.tagged(picture(2))
    shelf.look(refresh="spring")
    assert [(asked.path, asked.headers["if-none-match"]) for asked in server.asked] == [("/c", '"v1"')]
    assert shelf.unfinished(refresh="spring") is None


def test_a_lost_or_damaged_file_is_fetched_again(bench: Any, server: Server) -> None:
    server.behaviours |= {"/a": bad.sends(picture()), "/b": bad.sends(picture(1)), "/c": bad.sends(picture(2))}
    shelf = Shelf(bench, [[f"{server.url}/{name}"] for name in "abc"])
    before, _ = shelf.look()
    downloads = bench.root / "cache" / "downloads"
    (downloads / before["path"][0]).unlink()
    assert shelf.unfinished() == "1 downloaded files are gone"
    flipped = bytearray(picture(1))
    flipped[-20] ^= 1
    (downloads / before["path"][1]).write_bytes(flipped)
    server.asked.clear()
    _, report = shelf.look()
    assert server.counts == {"/a": 1}
    assert any("damaged" in line for line in report["warnings"])
    after, _ = shelf.look()
    assert server.counts == {"/a": 1, "/b": 1}
    assert after.equals(before)


def test_first_fetches_one_and_all_fetches_all(bench: Any, server: Server) -> None:
    server.behaviours |= {f"/{number}": bad.sends(picture(number)) for number in range(3)}
    urls = [f"{server.url}/{number}" for number in range(3)]
    shelf = Shelf(bench, [[*urls, urls[0]]])
    shelf.look(use="first")
    assert server.counts == {"/0": 1}
    table, _ = shelf.look(use="best")
    assert table["used"].to_list() == [False, False, True]
    assert server.counts == {"/0": 1, "/1": 1, "/2": 1}
    assert shelf.look(use="all")[0]["used"].to_list() == [True] * 3


def test_private_addresses_are_refused_until_they_are_allowed(bench: Any, server: Server) -> None:
    server.behaviours["/a"] = bad.sends(picture())
    shelf = Shelf(bench, [[f"{server.url}/a"]])
    with pytest.raises(UserError, match=r"none of 1 images.*refused.*allow_private: true") as caught:
        shelf.look(allow_private=False)
    assert "\n" not in str(caught.value)
    assert server.asked == []
    assert shelf.look()[0]["status"].to_list() == ["ok"]


def test_a_raised_limit_is_asked_about_again(bench: Any, server: Server) -> None:
    server.behaviours |= {"/a": bad.sends(picture()), "/b": bad.sends(picture() + bytes(5000))}
    shelf = Shelf(bench, [[f"{server.url}/a"], [f"{server.url}/b"]])
    assert shelf.look(limits=ImageLimits(max_bytes=4000))[0]["status"].to_list() == ["ok", "too_large"]
    server.asked.clear()
    assert shelf.look(limits=ImageLimits(max_bytes=9000))[0]["status"].to_list() == ["ok", "ok"]
    assert server.counts == {"/b": 1}


def test_a_catalogue_without_addresses_is_one_clear_line(bench: Any) -> None:
    with pytest.raises(UserError, match=r"no item has the address.*data\.adapter\.items\.image_urls"):
        Shelf(bench, [[], []]).look()


def test_nobody_answers_is_one_clear_line(bench: Any, server: Server) -> None:
    server.behaviours["/a"] = bad.says(500)
    with pytest.raises(UserError, match=r"none of 1 images could be fetched; the first is failed: HTTP 500"):
        Shelf(bench, [[f"{server.url}/a"]]).look()


def test_manners_do_not_count_as_a_change(bench: Any) -> None:
    first = Images(source=Urls())
    polite = Images(source=Urls(concurrency=1, per_host=1, read_s=9, retries=0, runs=9, contact="me@a.example"))
    assert result_settings(first) == result_settings(polite)
    assert result_settings(first) != result_settings(Images(source=Urls(refresh="march")))
    assert result_settings(first) != result_settings(Images(source=Urls(allow_private=True)))


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(UserError, match=r"reveal-recsys\[download\]"):
        Images(source=Urls()).check()
    Images(source=None).check()


def test_the_sources_load_no_client() -> None:
    code = "import sys, pipeline.sources; print('httpx2' in sys.modules or 'httpcore2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


CHILD = """
import sys
from pathlib import Path
import polars as pl
from pipeline.files import FileDigests
from pipeline.sources.urls import Urls
from pipeline.stage import Workspace
from pipeline.stages.images import Images
from tests.pipeline.stages.conftest import Recorder

root = Path(sys.argv[1])
stage = Images(source=Urls(allow_private=True, concurrency=2, per_host=2))
work = Workspace(root / "out", root / "resume", root / "cache", FileDigests(root / "digests.sqlite"), Recorder())
stage.run({"ingest": Path(sys.argv[2])}, work)
"""


@pytest.mark.slow
def test_a_kill_loses_the_images_in_flight_and_no_others(bench: Any, server: Server) -> None:
    """The child is killed when the server has been asked for the thirtieth image, whose answer it never gets."""
    child: list[subprocess.Popen[bytes]] = []

    def kill(answer: bad.Answer) -> None:
        child[0].send_signal(signal.SIGKILL)

    server.behaviours |= {f"/{number}": bad.sends(picture(number)) for number in range(40)}
    server.behaviours["/29"] = bad.in_turn(kill, bad.sends(picture(29)))
    shelf = Shelf(bench, [[f"{server.url}/{number}"] for number in range(40)])
    (bench.root / "out").mkdir()
    child.append(subprocess.Popen([sys.executable, "-c", CHILD, str(bench.root), str(shelf.ingest)]))
    assert child[0].wait() == -signal.SIGKILL
    asked = server.counts
    table, _ = shelf.look()
    assert table["status"].to_list() == ["ok"] * 40
    again = {path: count - asked[path] for path, count in server.counts.items() if asked[path] and count > asked[path]}
    assert sum(again.values()) <= 3, "two in flight, and perhaps one that was not yet written down"
    assert "/29" in again
    assert not (bench.root / "cache" / "downloads" / "partial").exists()
