"""Two processes with half of each batch learn what one learns with all of it."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from reveal_core import batches
from reveal_core.backbones.bert4rec import Bert4Rec
from reveal_core.backbones.sasrec import SasRec
from reveal_core.balance.avl import Avl, AvlConfig
from reveal_core.batches import Batch
from reveal_core.losses.sampled_softmax import SampledSoftmax
from reveal_core.model import SequenceRecommender
from reveal_core.parallel import Group, current, joined
from reveal_core.training import Epoch, fit, make_avl
from reveal_core.tuning.config import BalanceConfig
from reveal_core.tuning.tuner import tune
from tests.reveal_core.extraction.conftest import Shop
from tests.reveal_core.extraction.test_alternation import TRAIN, Chatty
from tests.reveal_core.extraction.test_alternation import config as extraction
from tests.reveal_core.test_training import CONFIG, cycle_data, make_model
from tests.reveal_core.tuning.conftest import NUM_ITEMS, Kit

SIZE = 2


def trained(folder: Path) -> dict[str, Tensor]:
    """Weights and losses of a recommender over all modalities; nothing is drawn inside its steps."""
    return _trained(folder, SasRec(num_layers=1, dropout=0.0))


def hidden(folder: Path) -> dict[str, Tensor]:
    """The same of one that hides items: the same ones in all processes."""
    return _trained(folder, Bert4Rec(num_layers=1, dropout=0.0))


def _trained(folder: Path, backbone: SasRec | Bert4Rec) -> dict[str, Tensor]:
    model = make_model(content=True, backbone=backbone)
    avl = make_avl(AvlConfig(enabled=True, every=2, apply_to="gradient"), model.config.modalities)
    result = fit(model, cycle_data(41), replace(CONFIG, max_epochs=3), 0, folder, avl=avl)
    losses = torch.tensor([[epoch.train_loss, epoch.measured["avl/K"]] for epoch in result.history])
    return {"losses": losses, **result.weights}


def extracted(folder: Path) -> dict[str, Tensor]:
    """What learned extraction ends with, its prompts rewritten on the way: one process alone asks the critic."""
    shop, critic = Shop(), Chatty()
    avl = Avl(AvlConfig(enabled=True, every=2, apply_to="gradient"))
    alternation = shop.alternation(extraction("text"), folder / "rounds", critic=critic, avl=avl)
    model = shop.model(alternation.learner, backbone=SasRec(num_layers=1, num_heads=1, dropout=0.0))
    result = fit(model, shop.data(), TRAIN, 3, folder, alternation=alternation)
    assert bool(critic.asked) == current().leads
    assert alternation.book is not None
    rounds = torch.tensor([[done.loss, done.moved, done.rewritten, done.measured["avl/K"]] for done in result.rounds])
    shown = {"texts": alternation.book.vectors_NT, "vectors": alternation.show(model).vectors_NV}
    return {"rounds": rounds, **shown, **alternation.weights(), **result.weights}


def looked(_: Path) -> dict[str, Tensor]:
    """One image for two processes."""
    look = Shop(num_items=1).learner(extraction()).look()
    return {"vectors": look.vectors_NV, "attention": torch.from_numpy(look.attention_NQP)}


def tuned(folder: Path) -> dict[str, Tensor]:
    """Weights and losses of an embedder with WPCL and CRTR."""
    torch.manual_seed(0)
    kit = Kit()
    config = replace(kit.config, reader=SasRec(num_layers=1, dropout=0.0), fresh_items=9)
    embedder = replace(kit, config=config).embedder("text", "image")
    data = cycle_data(41)
    assert data.train.sequences.items.max() <= NUM_ITEMS
    result = tune(embedder, data, BalanceConfig(), 0, folder)
    numbers = [[epoch.loss, *(epoch.measured[name] for name in sorted(epoch.measured))] for epoch in result.history]
    return {"losses": torch.tensor(numbers), **result.learned}


#: The table of ids on every process; divided among them for two epochs; and then for the rest.
DIVIDED = (("whole", 3, 1_000_000), ("divided", 2, 1), ("divided", 3, 1))


def divided(folder: Path) -> dict[str, Tensor]:
    """What is learned either way."""
    found = {}
    for name, epochs, spread_ids_from in DIVIDED:
        loss = SampledSoftmax(num_negatives=5)
        model = make_model(content=True, backbone=SasRec(num_layers=1, dropout=0.0), loss=loss)
        config = replace(CONFIG, max_epochs=epochs, spread_ids_from=spread_ids_from, checkpoint_every=2)
        rows: list[int] = []
        result = fit(model, cycle_data(41), config, 0, folder / name, on_epoch=_notes_rows(model, rows))
        model.load_state_dict(result.weights)
        told = [
            [epoch.train_loss, *(epoch.measured[key] for key in sorted(epoch.measured))] for epoch in result.history
        ]
        found |= {f"{name}/{key}": tensor for key, tensor in result.weights.items()}
        found |= {f"{name}/told": torch.tensor(told), f"{name}/rows": torch.tensor(rows[0])}
    return found


def divided_between_rounds(folder: Path) -> dict[str, Tensor]:
    """The same where extraction learns too: one process alone gives feedback, with ids of all."""
    found = {}
    for name, epochs, spread_ids_from in DIVIDED:
        shop, config = Shop(), replace(TRAIN, max_epochs=epochs, spread_ids_from=spread_ids_from)
        alternation = shop.alternation(extraction(), folder / name / "rounds")
        backbone, loss = SasRec(num_layers=1, num_heads=1, dropout=0.0), SampledSoftmax(num_negatives=5)
        model = shop.model(alternation.learner, backbone=backbone, loss=loss)
        rows: list[int] = []
        notes = _notes_rows(model, rows)
        result = fit(model, shop.data(), config, 3, folder / name, alternation=alternation, on_epoch=notes)
        model.load_state_dict(result.weights)
        moved = torch.tensor([[done.loss, done.moved] for done in result.rounds])
        found |= {f"{name}/{key}": tensor for key, tensor in [*result.weights.items(), *alternation.weights().items()]}
        found |= {f"{name}/moved": moved, f"{name}/rows": torch.tensor(rows[0])}
    return found


def _notes_rows(model: SequenceRecommender, rows: list[int]) -> Callable[[Epoch], None]:
    """Of the table of ids that this process has while it trains."""
    assert model.ids is not None
    ids = model.ids
    return lambda epoch: rows.append(len(ids.weight))


def gathered(_: Path) -> dict[str, Tensor]:
    """Five rows, of which each process computes its part, and their gradient under a loss of which each has a part."""
    group, x_KD = current(), torch.arange(10.0).view(5, 2).requires_grad_()
    rows = group.gather((x_KD**2)[group.part(5)], 5)
    weights = torch.arange(1.0, 6.0)[:, None]
    (rows * weights)[group.rank :: group.size].sum().backward()
    group.sum_gradients([torch.nn.Parameter(torch.zeros(1))])  # nobody has a gradient: nothing is made up
    assert x_KD.grad is not None
    return {"rows": rows.detach(), "gradient": group.sum(x_KD.grad)}


WORK: list[Callable[[Path], dict[str, Tensor]]] = [trained, hidden, extracted, looked, tuned, gathered]
#: In them negatives are drawn, which a process by itself does in another way.
DRAWING = [divided, divided_between_rounds]


def _work(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(SIZE)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    batches._PIECE_PLACES["cpu"] = 0  # a process reads its share in other pieces than one alone reads the whole
    with joined() as group:
        found = {work.__name__: work(folder / work.__name__) for work in [*WORK, *DRAWING]}
        heard = group.hear() if group.rank else group.tell({"said": Path("x")})
        assert group.leads or heard == {"said": Path("x")}
    assert current() == Group()
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes has in the end."""
    folder = tmp_path_factory.mktemp("group")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Both from one process that has imported what they need, unless there is another server already.
    multiprocessing.set_forkserver_preload([__name__, "torch._dynamo"])
    torch.multiprocessing.start_processes(_work, (port, folder), nprocs=SIZE, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_two_processes_learn_what_one_learns(
    work: Callable[[Path], dict[str, Tensor]], found: list[dict[str, Any]], tmp_path: Path
) -> None:
    alone = work(tmp_path)
    for together in found:
        mine = together[work.__name__]
        assert mine.keys() == alone.keys()
        for name, expected in alone.items():
            if name.endswith("qkv.bias"):  # attention does not depend on the keys' bias: Adam follows its rounding
                continue
            assert torch.allclose(mine[name], expected, rtol=2e-4, atol=2e-5), name


@pytest.mark.parametrize("work", DRAWING, ids=lambda work: work.__name__)
def test_ids_that_are_divided_learn_what_ids_in_one_place_do(
    work: Callable[[Path], dict[str, Tensor]], found: list[dict[str, Any]]
) -> None:
    both = [together[work.__name__] for together in found]
    assert sum(int(mine["divided/rows"]) for mine in both) == int(both[0]["whole/rows"])
    for mine in both:
        whole = {name.removeprefix("whole/"): tensor for name, tensor in mine.items() if name.startswith("whole/")}
        for name, expected in whole.items():
            if name != "rows" and not name.endswith("qkv.bias"):
                assert torch.allclose(mine[f"divided/{name}"], expected, rtol=2e-4, atol=2e-5), name


def test_both_have_the_same_weights(found: list[dict[str, Any]]) -> None:
    first, second = found
    for name, tensor in first["trained"].items():
        assert torch.equal(tensor, second["trained"][name]), name


def test_shares_hold_every_window_once() -> None:
    rows = torch.arange(1, 8)[:, None]
    batch = Batch(item_seq=rows, seq_len=rows[:, 0], pos_items=rows)
    shares = [Group(rank, 3).share(batch) for rank in range(3)]
    assert sorted(int(item) for mine, _ in shares for item in mine.item_seq) == list(range(1, 8))
    assert sum(share for _, share in shares) == pytest.approx(1)
    few = Batch(item_seq=rows[:2], seq_len=rows[:2, 0], pos_items=rows[:2])
    assert [share for _, share in (Group(rank, 3).share(few) for rank in range(3))] == pytest.approx([1 / 3] * 3)


def test_a_process_by_itself_shares_nothing() -> None:
    rows = torch.arange(1, 4)[:, None]
    batch = Batch(item_seq=rows, seq_len=rows[:, 0], pos_items=rows)
    mine, share = Group().share(batch)
    assert share == 1
    assert torch.equal(mine.item_seq, rows)
