"""RecBole's SASRec: an epoch of its trainer, its full ranking, and the vectors that it scores with."""

from __future__ import annotations

import logging
import os
import sys
import types
from typing import Any

import numpy as np
from serving import seconds_of, serve


def stand_in(name: str, **contents: object) -> types.ModuleType:
    """A module that RecBole imports for something else than what is asked of it here."""
    module = types.ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module
    return module


stand_in("ray", tune=stand_in("ray.tune"))
stand_in("kmeans_pytorch", kmeans=None)
for name, kind in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
    setattr(np, name, kind)  # names that NumPy 2 no longer has

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

#: What it has learned with and from, once it was asked to prepare.
state: dict[str, Any] = {}


def prepare(folder: str, dataset: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Read the log, cut it leave-last-out and build the model: counts of what an epoch and a ranking have to do.

    Args:
        folder: where the dataset's folder is, which holds RecBole's atomic file; it may write there.
    """
    usual = {
        "data_path": folder,
        "checkpoint_dir": folder,
        "use_gpu": False,
        "show_progress": False,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": "full",
        },
        "train_neg_sample_args": None,
        "loss_type": "CE",
        "metrics": ["Recall", "NDCG", "MRR"],
        "topk": [10],
        "valid_metric": "NDCG@10",
    }
    sys.argv = sys.argv[:1]  # which it would read as settings
    os.chdir(folder)  # where it keeps its logs
    config = Config(model="SASRec", dataset=dataset, config_dict={**usual, **settings})
    logging.disable(logging.INFO)
    init_seed(config["seed"], True)
    data = create_dataset(config)
    train, valid, test = data_preparation(config, data)
    model = get_model(config["model"])(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    state.update(data=data, train=train, valid=valid, test=test, model=model, trainer=trainer, epoch=0)
    return {"targets": len(train._dataset), "users": len(test._dataset)}


def epoch() -> dict[str, Any]:
    """Train for one more epoch."""
    place = state["epoch"]
    state["epoch"] += 1
    return {"seconds": seconds_of(lambda: state["trainer"]._train_epoch(state["train"], place))}


def evaluate() -> dict[str, Any]:
    """Rank the whole catalogue for every test user."""
    return {"seconds": seconds_of(lambda: state["trainer"].evaluate(state["test"], load_best_model=False))}


def vectors(path: str) -> dict[str, Any]:
    """Write the vectors of the users at validation and of the items, in the order of their numbers in the log, which
    count from 1."""
    import torch

    data, model = state["data"], state["model"].eval()
    users, queries = [], []
    with torch.no_grad():
        for interaction, *_ in state["valid"]:
            users.append(interaction[data.uid_field])
            queries.append(model.forward(interaction["item_id_list"], interaction["item_length"]))
        items = model.item_embedding.weight
        user_numbers = data.id2token(data.uid_field, torch.cat(users).numpy()).astype(np.int64)
        item_numbers = data.id2token(data.iid_field, np.arange(1, len(items))).astype(np.int64)
        np.savez(
            path,
            queries=torch.cat(queries).numpy()[np.argsort(user_numbers)],
            items=items[1:].numpy()[np.argsort(item_numbers)],
        )
    return {}


if __name__ == "__main__":
    serve(prepare, epoch, evaluate, vectors)
