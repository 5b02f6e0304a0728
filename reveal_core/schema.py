"""Column names and table schemas, once.

Indices: ``item_index`` runs 1..N in the order of ``items.parquet`` (0 is padding), ``user_index`` runs 0..U-1 in
the order of ``users.parquet``. Tables that carry an index are sorted by it.
"""

from __future__ import annotations

import polars as pl

USER_INDEX = "user_index"
ITEM_INDEX = "item_index"
USER_ID = "user_id"
ITEM_ID = "item_id"
RATING = "rating"
TIMESTAMP = "timestamp"
POSITION = "position"
TARGET = "target"
IMAGE_URLS = "image_urls"

PADDING = 0

#: interactions.parquet, sorted by (user_index, position).
INTERACTIONS: dict[str, pl.DataType] = {
    USER_INDEX: pl.Int32(),
    ITEM_INDEX: pl.Int32(),
    USER_ID: pl.String(),
    ITEM_ID: pl.String(),
    RATING: pl.Float32(),  # null where the log has none
    TIMESTAMP: pl.Int64(),  # milliseconds since 1970 UTC; null where the log has only an order
    POSITION: pl.Int32(),  # 0-based place in the user's history
}

#: items.parquet, sorted by item_index. Text fields are null where the source has none.
ITEMS: dict[str, pl.DataType] = {
    ITEM_INDEX: pl.Int32(),
    ITEM_ID: pl.String(),
    "title": pl.String(),
    "brand": pl.String(),
    "category": pl.String(),
    "description": pl.String(),
    "image_urls": pl.List(pl.String),  # in their order; empty = none
}

#: users.parquet, sorted by user_index.
USERS: dict[str, pl.DataType] = {
    USER_INDEX: pl.Int32(),
    USER_ID: pl.String(),
    "num_interactions": pl.Int32(),
}

#: images.parquet, a row for each image of each item, sorted by (item_index, place); one, ``missing``, for an item
#: without any.
IMAGES: dict[str, pl.DataType] = {
    ITEM_INDEX: pl.Int32(),
    ITEM_ID: pl.String(),
    "place": pl.Int32(),  # 0-based, among the item's images
    "used": pl.Boolean(),  # whether the item's vector is made of it; only where the status is ok
    "path": pl.String(),  # of the file that holds its bytes, relative to the image folder; null when there is none
    "offset": pl.Int64(),  # where in that file they begin; null = the whole file
    "origin": pl.String(),  # the member of a tar file, or the URL; null for a plain file
    "status": pl.String(),  # one of IMAGE_STATUSES
    "detail": pl.String(),  # why, when the status is not ok or missing
    "sha256": pl.String(),  # of the image's bytes; null when there was nothing to read
    "num_bytes": pl.Int64(),
    "width": pl.Int32(),
    "height": pl.Int32(),
    "format": pl.String(),
}

IMAGE_STATUSES = ("ok", "missing", "empty", "unreadable", "too_large", "refused", "failed")

#: train.parquet, valid.parquet and test.parquet of the split, sorted by (user_index, position).
SPLIT: dict[str, pl.DataType] = {
    USER_INDEX: pl.Int32(),
    ITEM_INDEX: pl.Int32(),
    TIMESTAMP: pl.Int64(),
    POSITION: pl.Int32(),
    TARGET: pl.Boolean(),  # whether this row is what the evaluation asks for; always false in train
}


def features(image_dim: int, text_dim: int) -> dict[str, pl.DataType]:
    """item_features.parquet, one row per item, sorted by item_index; a missing image or text has a null vector."""
    return {
        ITEM_INDEX: pl.Int32(),
        ITEM_ID: pl.String(),
        "image_vector": pl.Array(pl.Float32, image_dim),  # mean of the patch features
        "text_vector": pl.Array(pl.Float32, text_dim),
    }
