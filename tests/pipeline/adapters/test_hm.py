"""H&M: article ids are texts of ten digits, days are times."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adapters.hm import HM
from reveal_core.interactions import Cleaning, clean

Write = Callable[[str, str | bytes], Path]

TRANSACTIONS = "t_dat,customer_id,article_id,price,sales_channel_id\n"
ARTICLES = (
    "article_id,prod_name,product_type_name,department_name,colour_group_name,graphical_appearance_name,detail_desc\n"
)


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_ids_keep_or_regain_their_zero(write: Write, tmp_path: Path, gz: str) -> None:
    rows = '2020-09-16,c1,0786022008,0.04,2\n2020-09-17,c1,"0111565001",0.03,2\n2020-09-17,c2,111565001,0.03,1\n'
    write(f"transactions_train.csv{gz}", TRANSACTIONS + rows)
    write(
        f"articles.csv{gz}",
        ARTICLES
        + '111565001,"Tights, 20 den",Tights,Legwear,Black,Solid,"Sheer.\nSoft."\n0786022008,Top,Top,Tops,,,\n',
    )
    raw = HM().read(tmp_path)
    assert raw.interactions.rows() == [
        ("c1", "0786022008", None, 1_600_214_400_000),
        ("c1", "0111565001", None, 1_600_300_800_000),
        ("c2", "0111565001", None, 1_600_300_800_000),
    ]
    assert raw.items.drop("image_urls").rows() == [
        ("0111565001", "Tights, 20 den", None, "Tights, Legwear", "Black. Solid. Sheer.\nSoft."),
        ("0786022008", "Top", None, "Top, Tops", None),
    ]
    assert (raw.dropped, raw.warnings) == ({"malformed": 0}, [])


def test_photos_lie_in_folders_by_the_first_three_digits() -> None:
    assert HM.images_root == "images"
    assert HM.image_pattern.format(item_id="0111565001") == "011/0111565001.jpg"


@pytest.mark.real_data
def test_the_real_week() -> None:
    root = Path(os.environ.get("REVEAL_DATA", "")) / "hm-week"
    if "REVEAL_DATA" not in os.environ or not root.is_dir():
        pytest.skip("REVEAL_DATA holds no hm-week")
    raw = HM().read(root)
    cleaned = clean(raw.interactions, raw.items, Cleaning(duplicates="all"))
    assert (raw.dropped, raw.warnings) == ({"malformed": 0}, [])
    assert (cleaned.users.height, cleaned.items.height, cleaned.interactions.height) == (12_913, 5_384, 65_739)
    assert cleaned.interactions["item_index"].n_unique() == 5_384
    assert set(cleaned.items["item_id"].str.len_chars()) == {10}
    assert cleaned.items["title"].null_count() == cleaned.items["category"].null_count() == 0
