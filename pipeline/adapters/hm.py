"""The Kaggle H&M layout: transactions by day, articles, and photos in folders by the article's first digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl

from pipeline.adapters.base import Adapter, Raw, raw
from pipeline.cells import find, together
from pipeline.delimited import read_delimited
from pipeline.typed import parse_items, parse_log
from reveal_core.schema import ITEM_ID, TIMESTAMP, USER_ID

_ARTICLE = (
    "article_id",
    "prod_name",
    "product_type_name",
    "department_name",
    "colour_group_name",
    "graphical_appearance_name",
    "detail_desc",
)


@dataclass(frozen=True, kw_only=True)
class HM(Adapter):
    """``transactions_train.csv`` and ``articles.csv``; purchases carry no rating and only a day."""

    kind: Literal["hm"] = "hm"

    images_root: ClassVar[str | None] = "images"
    image_pattern: ClassVar[str] = "{item_id:.3}/{item_id}.jpg"

    def files(self, root: Path) -> list[Path]:
        return [find(root, ["transactions_train.csv"])[0], find(root, ["articles.csv"])[0]]

    def read(self, root: Path) -> Raw:
        transactions, articles = self.files(root)
        bought = read_delimited(transactions, ["customer_id", "article_id", "t_dat"]).select(
            pl.col("customer_id").alias(USER_ID), _article_id(), pl.col("t_dat").alias(TIMESTAMP)
        )
        catalogue = read_delimited(articles, _ARTICLE, multiline=True).select(
            _article_id(),
            pl.col("prod_name").alias("title"),
            together(["product_type_name", "department_name"], ", ").alias("category"),
            together(["colour_group_name", "graphical_appearance_name", "detail_desc"], ". ").alias("description"),
        )
        return raw(parse_log(bought, self.max_malformed), parse_items(catalogue, self.max_malformed))


def _article_id() -> pl.Expr:
    """Ten digits; spreadsheets lose the leading zero."""
    article = pl.col("article_id")
    return pl.when(article.str.contains(r"^\d{9}$")).then("0" + article).otherwise(article).alias(ITEM_ID)
