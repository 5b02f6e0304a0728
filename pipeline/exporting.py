"""A run's results in the formats of other tools, in one new folder.

N items, U users, M vectors of an item, C their width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from pipeline.files import write_array, write_blocks, write_json
from pipeline.finished import FinishedRun
from pipeline.model_card import model_card
from pipeline.recbole_files import write_embeddings, write_recbole
from pipeline.unseen import units_of
from reveal_core.disk import atomic_folder, atomic_path
from reveal_core.errors import UserError
from reveal_core.evaluation import Float32s
from reveal_core.query_encoder import write_onnx
from reveal_core.retrieval import build_index, save_index
from reveal_core.saved import save_recommender
from reveal_core.schema import ITEM_ID, ITEM_INDEX, USER_ID, USER_INDEX

#: Rows of a Parquet file in memory at once.
_BLOCK = 65_536


def export_run(run: FinishedRun, out: Path, formats: Collection[str] = ()) -> dict[str, str]:
    """Write a run's vectors and its model, and a model card as ``README.md``.

    Args:
        out: a new folder; it is there whole or not at all.
        formats: some of :data:`FORMATS`; empty = all, without what needs a package that is not installed.

    Returns:
        What could not be written and why, by format.

    Raises:
        UserError: the folder is not new, or a format that was asked for cannot be written.
    """
    with atomic_folder(out) as folder:
        export, skipped = Export(run, folder), dict[str, str]()
        files = export.fusion()
        for name in formats or FORMATS:
            told = _written(export, name, needed=bool(formats))
            if isinstance(told, str):
                skipped[name] = told
            else:
                files |= told
        (folder / "README.md").write_text(model_card(run, files), encoding="utf-8")
    return skipped


def _written(export: Export, name: str, *, needed: bool) -> dict[str, str] | str:
    """What each file of a format is; or why there is none, if it is not needed."""
    try:
        return FORMATS[name](export)
    except UserError as error:
        if needed:
            raise
        return str(error)


@dataclass(frozen=True)
class Export:
    """A run and the folder that it is written to; each method writes one format and says what each file is."""

    run: FinishedRun
    folder: Path

    @cached_property
    def items(self) -> Float32s:
        """(N, MC)"""
        return self.run.recommender.item_vectors

    @cached_property
    def users(self) -> Float32s:
        """(U, C) after all that each of them did"""
        return self.run.recommender.queries(self.run.histories)

    @property
    def num_vectors(self) -> int:
        """M"""
        return self.run.model.fusion.num_vectors

    def fusion(self) -> dict[str, str]:
        """Of no format: what whoever has several vectors of an item must know."""
        if self.num_vectors == 1:
            return {}
        write_json(self.folder / "fusion.json", asdict(self.run.model.fusion))
        return {
            "fusion.json": f"what makes one score of the products of a query and an item's {self.num_vectors} vectors"
        }

    def parquet(self) -> dict[str, str]:
        ids = {ITEM_INDEX: self.run.items[ITEM_INDEX], ITEM_ID: self.run.items[ITEM_ID]}
        _write_vectors(self.folder / "items.parquet", ids, self.items)
        ids = {USER_INDEX: self.run.users[USER_INDEX], USER_ID: self.run.users[USER_ID]}
        _write_vectors(self.folder / "users.parquet", ids, self.users)
        return {"items.parquet": f"item_id, vector{self._several}", "users.parquet": "user_id, vector"}

    def npy(self) -> dict[str, str]:
        for name, vectors, ids in (
            ("items", self.items, self.run.items[ITEM_ID]),
            ("users", self.users, self.run.users[USER_ID]),
        ):
            write_array(self.folder / f"{name}.npy", vectors)
            pl.DataFrame({ids.name: ids}).write_csv(self.folder / f"{name}.csv")
        shapes = f"{self.items.shape}{self._several}", f"{self.users.shape}"
        return {
            f"{name}.npy": f"{shape}; the id of each row is in `{name}.csv`"
            for name, shape in zip(("items", "users"), shapes, strict=True)
        }

    def faiss(self) -> dict[str, str]:
        save_index(build_index(self.items, self.num_vectors), self.folder / "index.faiss")
        rows, several = "row `i` is", self.num_vectors
        if several > 1:
            rows = f"rows `{several} i` to `{several} i + {several - 1}` are"
        return {"index.faiss": f"exact inner product index; {rows} the item with `item_index = i + 1`"}

    def safetensors(self) -> dict[str, str]:
        with atomic_path(self.folder / "vectors.safetensors") as temporary:
            save_file({"items": self.items, "users": self.users}, temporary)
        return {"vectors.safetensors": "tensors `items` and `users`, in the order of `item_index` and `user_index`"}

    def model(self) -> dict[str, str]:
        trained = {"run": self.run.name, "key": self.run.receipts["train"].key}
        units = units_of(self.run.encoded)
        save_recommender(self.folder / "model", self.run.recommender, self.run.features, units, trained)
        return {"model/": "for `reveal_core.load_recommender`"}

    def onnx(self) -> dict[str, str]:
        write_onnx(self.run.model, self.folder / "query_encoder.onnx")
        length = self.run.model_config.max_seq_len
        times = "; `times` (the same, ms since 1970)" if self.run.model_config.backbone.needs_times else ""
        inputs = f"`item_seq` (histories, {length}; item_index, oldest first, 0 behind the last), `seq_len`{times}"
        return {"query_encoder.onnx": f"{inputs} -> `query`, for inner products with the items' vectors"}

    def recbole(self) -> dict[str, str]:
        name, folder = self.run.name, self.folder / "recbole"
        log = pl.read_parquet(self.run.folder("ingest") / "interactions.parquet")
        write_recbole(folder / name, name, {"": log}, self.run.items)
        users = self.run.users[USER_ID], self.users
        write_embeddings(folder / name, name, items=(self.run.items[ITEM_ID], self.items), users=users)
        (folder / f"{name}.yaml").write_text(RECBOLE.format(name=name))
        return {"recbole/": f"atomic files of the whole log, with the vectors; settings in `recbole/{name}.yaml`"}

    @property
    def _several(self) -> str:
        return "" if self.num_vectors == 1 else f" ({self.num_vectors} vectors side by side)"


#: By the name that people give; each writes its files and says what they are.
FORMATS: Mapping[str, Callable[[Export], dict[str, str]]] = {
    "parquet": Export.parquet,
    "npy": Export.npy,
    "faiss": Export.faiss,
    "safetensors": Export.safetensors,
    "model": Export.model,
    "recbole": Export.recbole,
    "onnx": Export.onnx,
}

#: Settings of RecBole: its leave-one-out is `split: {kind: leave_last_out}` here.
RECBOLE = """\
# Run RecBole in this folder. A model reads the vectors with dataset.get_preload_weight("iid") and ("uid").
data_path: .
dataset: {name}
USER_ID_FIELD: user_id
ITEM_ID_FIELD: item_id
TIME_FIELD: timestamp
additional_feat_suffix: [itememb, useremb]
load_col:
  inter: [user_id, item_id, timestamp]
  itememb: [iid, item_emb]
  useremb: [uid, user_emb]
alias_of_item_id: [iid]
alias_of_user_id: [uid]
preload_weight: {{iid: item_emb, uid: user_emb}}
eval_args: {{split: {{LS: valid_and_test}}, order: TO, group_by: user, mode: full}}
"""


def _write_vectors(path: Path, ids: Mapping[str, pl.Series], vectors: Float32s) -> None:
    schema: dict[str, pl.DataType] = {name: column.dtype for name, column in ids.items()}
    schema["vector"] = pl.Array(pl.Float32, vectors.shape[1])

    def blocks() -> Iterator[pl.DataFrame]:
        for start in range(0, max(len(vectors), 1), _BLOCK):
            rows = slice(start, start + _BLOCK)
            vector = pl.Series(np.ascontiguousarray(vectors[rows]), dtype=schema["vector"])
            yield pl.DataFrame({**{name: column[rows] for name, column in ids.items()}, "vector": vector})

    write_blocks(path, blocks(), schema)
