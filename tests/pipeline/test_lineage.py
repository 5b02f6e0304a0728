from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from pipeline.lineage import Part, part_of, read_part
from reveal_core.errors import UserError


@pytest.fixture
def split(tmp_path: Path) -> Path:
    for name in ("train", "valid", "test"):
        pl.DataFrame({"of": [name]}).write_parquet(tmp_path / f"{name}.parquet", metadata={"part": name})
    return tmp_path


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_a_part_says_what_it_is(split: Path, part: Part) -> None:
    assert part_of(split / f"{part}.parquet") == part
    assert read_part(split, part)["of"].item() == part


@pytest.mark.parametrize("other", ["valid", "test"])
def test_another_part_under_the_name_of_training_is_refused(split: Path, other: str) -> None:
    shutil.copy(split / f"{other}.parquet", split / "train.parquet")
    with pytest.raises(UserError, match=f"holds the part '{other}' of the split, not 'train'") as caught:
        read_part(split, "train")
    assert str(split / "train.parquet") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_says_nothing_is_refused(split: Path) -> None:
    pl.read_parquet(split / "train.parquet").write_parquet(split / "train.parquet")
    assert part_of(split / "train.parquet") == ""
    with pytest.raises(UserError, match="holds the part ''"):
        read_part(split, "train")
