"""Parquet tables to text cells, batch by batch."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.cells import LINE, Cells, Malformed, opened, require
from reveal_core.errors import UserError

_BATCH = 500_000


def read_parquet(path: Path, wanted: Sequence[str]) -> Cells:
    """The wanted columns as texts: times in ISO 8601 (UTC), lists with spaces between their members."""
    import pyarrow.parquet as pq

    columns = list(dict.fromkeys(wanted))
    with opened(path) as stream:
        content = io.BytesIO(stream.read()) if path.suffix == ".gz" else path
    with explained(path):
        file = pq.ParquetFile(content)
    require(path, file.schema_arrow.names, columns)

    def blocks() -> Iterator[pl.DataFrame]:
        yield pl.DataFrame(schema={LINE: pl.Int64(), **dict.fromkeys(columns, pl.String())})
        first = 1
        with explained(path):
            for batch in file.iter_batches(_BATCH, columns=columns):
                frame = pl.DataFrame(batch)
                texts = pl.DataFrame([_texts(path, frame[name]) for name in columns])
                yield texts.with_row_index(LINE, offset=first).cast({LINE: pl.Int64})
                first += frame.height

    return Cells(blocks(), Malformed(path))


def read_columns(path: Path) -> list[str]:
    """The names of the columns that can be read as texts: not those of vectors, of objects or of bytes."""
    import pyarrow.parquet as pq
    from pyarrow import types

    with opened(path) as stream, explained(path):
        schema = pq.read_schema(io.BytesIO(stream.read()) if path.suffix == ".gz" else path)

    others = (
        *(types.is_nested, types.is_binary, types.is_large_binary, types.is_fixed_size_binary),
        *(types.is_duration, types.is_decimal256),
    )

    def is_text(kind: Any) -> bool:
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            return bool(types.is_string(kind.value_type) or types.is_large_string(kind.value_type))
        return not any(is_other(kind) for is_other in others)

    return [field.name for field in schema if is_text(field.type)]


def vector_columns(path: Path) -> list[str]:
    """The names of the columns that look made of vectors: lists of fractions, or of whole numbers of one length."""
    import pyarrow.parquet as pq
    from pyarrow import types

    with explained(path):
        schema = pq.read_schema(path)
    return [
        field.name
        for field in schema
        if is_vector(field.type) and (types.is_floating(field.type.value_type) or types.is_fixed_size_list(field.type))
    ]


def is_vector(kind: Any) -> bool:
    """Whether an Arrow type is one of lists of numbers."""
    from pyarrow import types

    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(lists and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What Arrow cannot read is the user's to mend."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"not a Parquet file: {str(error).splitlines()[0]}", where=str(path)) from None


def _texts(path: Path, values: pl.Series) -> pl.Series:
    try:
        return values.to_frame().select(_text(values.name, values.dtype).fill_null("").str.strip_chars()).to_series()
    except pl.exceptions.PolarsError:
        what = f"column {values.name!r} holds no texts, numbers or times but {values.dtype}"
        raise UserError(what, where=str(path), mend="name another column") from None


def _text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.f")
    if isinstance(dtype, pl.List):
        return column.cast(pl.List(pl.String)).list.join(" ")
    return column.cast(pl.String)
