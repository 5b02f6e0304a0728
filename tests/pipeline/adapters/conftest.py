"""Small raw files in every form."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
from pipeline.adapters.table import Catalogue, Log, Table

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file under tmp_path, compressed when its name ends in .gz."""

    def _write(name: str, content: str | bytes) -> Path:
        data = content.encode() if isinstance(content, str) else content
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return _write


@dataclass(frozen=True)
class Example:
    """A folder in a format: the log's files first, each ending in a line break; an item's id begins with zeros."""

    adapter: Adapter
    """As ``recognise`` must find it."""
    files: Mapping[str, str]
    log: list[tuple[Any, ...]]
    """What the log says: user, item, rating, ms (or the position, where there is one)."""
    titles: Mapping[str, str]
    """What the catalogue says of some items."""
    urls: Mapping[str, list[str]]
    """Likewise."""
    broken: str = "broken\n"
    """A line that is none of the log's."""

    def write(self, root: Path) -> Path:
        for name, content in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
        return root


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


_SECOND = 1_382_659_200
_TIMES = [_SECOND * 1000, (_SECOND + 60) * 1000, (_SECOND + 90) * 1000]
_PAIRS = [("A1", "0001"), ("A1", "B00X"), ("A2", "0001")]
_RATED = [(*pair, 4.0, time) for pair, time in zip(_PAIRS, _TIMES, strict=True)]
_UNRATED = [(*pair, None, time) for pair, time in zip(_PAIRS, _TIMES, strict=True)]
_ORDERED = [(*pair, None, None) for pair in _PAIRS]
_REVIEWS = json_lines(
    {"reviewerID": user, "asin": item, "overall": stars, "unixReviewTime": time // 1000, "reviewText": "so\nso"}
    for user, item, stars, time in _RATED
)

AMAZON_2014 = Example(
    adapter=Amazon2014(),
    files={
        "reviews_Beauty_5.json.gz": _REVIEWS,
        "meta_Beauty.json.gz": "{'asin': '0001', 'title': \"It's a bag &amp; more\", 'imUrl': 'http://x/1.jpg', "
        "'categories': [['Sports', 'Bags']]}\n{'asin': 'B00X', 'title': 'Tent'}\n{'asin': 'OTHER', 'title': 'Other'}\n",
    },
    log=_RATED,
    titles={"0001": "It's a bag & more", "B00X": "Tent"},
    urls={"0001": ["http://x/1.jpg"], "B00X": []},
)
AMAZON_2018 = Example(
    adapter=Amazon2018(),
    files={
        "Luxury_Beauty_5.json.gz": _REVIEWS,
        "meta_Luxury_Beauty.json.gz": json_lines(
            [
                {
                    "category": ["Luxury Beauty", "Skin &amp; Care"],
                    "description": ["Soft.", "Mild."],
                    "title": "Hand Cream",
                    "brand": "Crabtree",
                    "feature": ["75 ml"],
                    "imageURL": ["https://x/small.jpg"],
                    "imageURLHighRes": ["https://x/1.jpg", "https://x/2.jpg"],
                    "asin": "0001",
                },
                {"title": "Soap", "imageURL": ["https://x/s.jpg"], "imageURLHighRes": [], "asin": "B00X"},
                {"title": "Never bought", "asin": "B99"},
            ]
        ),
    },
    log=_RATED,
    titles={"0001": "Hand Cream", "B00X": "Soap"},
    urls={"0001": ["https://x/1.jpg", "https://x/2.jpg"], "B00X": ["https://x/s.jpg"]},
)
AMAZON_2023 = Example(
    adapter=Amazon2023(),
    files={
        "All_Beauty.jsonl.gz": json_lines(
            {"user_id": user, "asin": "variant", "parent_asin": item, "rating": stars, "timestamp": time, "images": []}
            for user, item, stars, time in _RATED
        ),
        "meta_All_Beauty.jsonl.gz": json_lines(
            [
                {
                    "main_category": "All Beauty",
                    "title": "Brush",
                    "features": ["Wood"],
                    "description": ["For hair."],
                    "images": [
                        {"thumb": "https://x/t1.jpg", "large": "https://x/l1.jpg", "variant": "MAIN", "hi_res": None},
                        {"thumb": "https://x/t2.jpg", "large": "https://x/l2.jpg", "hi_res": "https://x/h2.jpg"},
                    ],
                    "store": "Kent",
                    "categories": ["Beauty", "Hair"],
                    "parent_asin": "0001",
                },
                {"title": "Comb", "images": [], "store": None, "categories": [], "parent_asin": "B00X"},
            ]
        ),
    },
    log=_RATED,
    titles={"0001": "Brush", "B00X": "Comb"},
    urls={"0001": ["https://x/l1.jpg", "https://x/h2.jpg"], "B00X": []},
)
H_AND_M = Example(
    adapter=HM(),
    files={
        "transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n"
        "2020-09-16,c1,0786022008,0.04,2\n2020-09-17,c1,0111565001,0.03,2\n",
        "articles.csv": "article_id,prod_name,product_type_name,department_name,colour_group_name,"
        'graphical_appearance_name,detail_desc\n0111565001,"Tights, 20 den",Tights,Legwear,Black,Solid,Sheer.\n',
    },
    log=[("c1", "0786022008", None, 1_600_214_400_000), ("c1", "0111565001", None, 1_600_300_800_000)],
    titles={"0111565001": "Tights, 20 den"},
    urls={},
)
MOVIELENS = Example(
    adapter=MovieLens(),
    files={"u.data": "1\t007\t4\t100\n1\t8\t5\t200\n2\t007\t3\t150\n", "u.item": f"007|Goldfinger|||{'|0' * 19}\n"},
    log=[("1", "007", 4, 100_000), ("1", "8", 5, 200_000), ("2", "007", 3, 150_000)],
    titles={"007": "Goldfinger"},
    urls={},
)
MICROLENS = Example(
    adapter=MicroLens(),
    files={
        "MicroLens-50k_pairs.csv": "user,item,timestamp\n"
        + "".join(f"{user},{item},{time}\n" for user, item, _, time in _UNRATED),
        "MicroLens-50k_titles.csv": 'item,title\n0001,"Cats, and more cats"\nB00X,Dogs\n',
    },
    log=_UNRATED,
    titles={"0001": "Cats, and more cats", "B00X": "Dogs"},
    urls={},
)
PIXELREC = Example(
    adapter=PixelRec(),
    files={
        "interaction.csv": "item_id,user_id,timestamp\n"
        + "".join(f"{item},{user},{time // 1000}\n" for user, item, _, time in _UNRATED),
        "item_info.csv": "item_id,view_number,comment_number,thumbup_number,share_number,coin_number,favorite_number,"
        'barrage_number,title,tag,description\n0001,5,4,3,2,1,0,0,A cover,art,"Painted, slowly"\n',
    },
    log=_UNRATED,
    titles={"0001": "A cover"},
    urls={},
)
MIND = Example(
    adapter=Mind(),
    files={
        "behaviors.tsv": "1\tU1\t10/25/2013 12:00:00 AM\tN9 N8\t0001-1 N7-0\n"
        "2\tU1\t10/25/2013 2:00:00 PM\tN9 N8\tN7-0 N6-1 0001-0 N5-1\n",
        "news.tsv": '0001\tsports\tgolf\tA "hole" in one\tIt went in.\thttps://x\t[{"Label": "Golf"}]\t[]\n'
        "N6\tnews\tworld\tElection\t\thttps://x\t[]\t[]\n",
    },
    log=[
        ("U1", "0001", None, 1_382_659_200_000),
        ("U1", "N6", None, 1_382_709_600_000),
        ("U1", "N5", None, 1_382_709_600_000),
    ],
    titles={"0001": 'A "hole" in one', "N6": "Election"},
    urls={},
)
MMREC = Example(
    adapter=MmRec(),
    files={
        "baby.inter": "userID\titemID\trating\ttimestamp\tx_label\n0\t007\t4.0\t100\t0\n0\t1\t5.0\t200\t2\n",
        "meta-baby.csv": "itemID,asin,title,price,imUrl,related,brand,categories,salesRank,description\n"
        '007,B001,"Bib, soft",9.5,http://x/b.jpg,,Acme,"[[\'Baby\']]",,Washable\n',
        "i_id_mapping.csv": "asin\titemID\nB000\t007\nB001\t1\n",
    },
    log=[("0", "007", 4, 100_000), ("0", "1", 5, 200_000)],
    titles={"007": "Bib, soft"},
    urls={"007": ["http://x/b.jpg"]},
)
RECBOLE = Example(
    adapter=RecBole(),
    files={
        "ml.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "196\t007\t3\t881250949\n196\t8\t4\t9e8\n",
        "ml.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '007\tThe "Best"\t1995\tAction Comedy\n8\tHeat\t1995\tCrime\n',
    },
    log=[("196", "007", 3, 881_250_949_000), ("196", "8", 4, 900_000_000_000)],
    titles={"007": 'The "Best"', "8": "Heat"},
    urls={},
)
S3REC = Example(
    adapter=S3Rec(),
    files={"Beauty.txt": "1 007 12 3\n2 12\n1 5\n"},
    log=[("1", item, None, None) for item in ("007", "12", "3")] + [("2", "12", None, None), ("1", "5", None, None)],
    titles={},
    urls={},
)
TABLE = Example(
    adapter=Table(
        interactions=Log(file="orders.csv", user="customer", item="sku", timestamp="bought_at"),
        items=Catalogue(file="products.csv", item="sku", title="name", image_urls="image_url"),
    ),
    files={
        "orders.csv": "customer,sku,bought_at\n" + "".join(f"{u},{i},{t // 1000}\n" for u, i, _, t in _UNRATED),
        "products.csv": "sku,name,image_url\n0001,Boots,http://x/1.jpg http://x/2.jpg\nB00X,Socks,\n",
    },
    log=_UNRATED,
    titles={"0001": "Boots", "B00X": "Socks"},
    urls={"0001": ["http://x/1.jpg", "http://x/2.jpg"], "B00X": []},
)


#: One for each adapter: a new one adds its own here.
EXAMPLES: dict[type[Adapter], Example] = {
    type(example.adapter): example
    for example in (
        *(AMAZON_2014, AMAZON_2018, AMAZON_2023, H_AND_M, MOVIELENS, MICROLENS),
        *(PIXELREC, MIND, MMREC, RECBOLE, S3REC, TABLE),
    )
}


@pytest.fixture(scope="session")
def examples() -> dict[type[Adapter], Example]:
    return EXAMPLES
