"""The whole loss of a batch against loops that share no code with it, and who learns from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core.balance.crtr import CrtrConfig
from reveal_core.balance.wpcl import WpclConfig
from reveal_core.tuning.config import BalanceConfig
from reveal_core.tuning.objective import Compared, Loss, contrastive_loss

PLAIN = BalanceConfig(wpcl=WpclConfig(enabled=False), crtr=CrtrConfig(enabled=False))
TAU = 0.3


def scores(histories: np.ndarray, items: np.ndarray) -> np.ndarray:
    out = np.zeros((len(histories), len(items)))
    for u, z_u in enumerate(histories):
        for k, z_k in enumerate(items):
            length = np.linalg.norm(z_u) * np.linalg.norm(z_k)
            out[u, k] = (z_u @ z_k) / length / TAU if length else 0.0
    return out


def reference(batch: dict[str, Any], balance: BalanceConfig) -> float:
    """By the equations, one history and one candidate at a time."""
    items, positives, sides = batch["items"], batch["positives"], batch["sides"]
    own = {name: scores(side["u"], side["i"]) for name, side in sides.items()}
    fused = scores(sum(side["u"] for side in sides.values()), sum(side["i"] for side in sides.values()))
    total, asked, divergence, compared = 0.0, 0, 0.0, 0
    for u, place in enumerate(positives):
        if not any(side["known"][u] for side in sides.values()):
            continue
        asked += 1
        others = [k for k in range(len(items)) if items[k] != items[place]]
        both = all(side["known"][u] for side in sides.values())
        shared = [k for k in range(len(items)) if all(side["has"][k] for side in sides.values())]
        weight = 1.0
        if balance.wpcl.enabled and both and place in shared:
            against = [k for k in others if k in shared]
            if against:
                margin = [s[u, place] - math.log(sum(math.exp(s[u, k]) for k in against)) for s in own.values()]
                gap = abs(margin[0] - margin[1])
            else:
                gap = 0.0
            weight = 1 + balance.wpcl.beta / (1 + math.exp(-gap / balance.wpcl.temperature))
        negative = sum(weight * math.exp(fused[u, k]) for k in others)
        total += math.log(math.exp(fused[u, place]) + negative) - fused[u, place]
        if both and balance.crtr.enabled:
            compared += 1
            if shared:
                p, q = (
                    np.exp(s[u, shared] / balance.crtr.temperature)
                    / np.exp(s[u, shared] / balance.crtr.temperature).sum()
                    for s in own.values()
                )
                divergence += 0.5 * float((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum())
    loss = total / max(asked, 1)
    return loss + balance.crtr.weight * divergence / max(compared, 1)


def draw(seed: int, num: int, candidates: int, complete: float = 0.7) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sides = {}
    for name in ("text", "image"):
        known, has = rng.random(num) < complete, rng.random(candidates) < complete
        u, i = rng.normal(size=(num, 4)) * known[:, None], rng.normal(size=(candidates, 4)) * has[:, None]
        sides[name] = {"u": u, "i": i, "known": known, "has": has}
    items = rng.permutation(candidates) + 1
    return {"sides": sides, "items": items, "positives": rng.integers(0, candidates, num)}


def found(batch: dict[str, Any], balance: BalanceConfig) -> tuple[Loss, dict[str, Compared]]:
    compared = {
        name: Compared(
            torch.tensor(side["u"]).requires_grad_(), torch.tensor(side["known"]),
            torch.tensor(side["i"]).requires_grad_(), torch.tensor(side["has"]),
        )
        for name, side in batch["sides"].items()
    }  # fmt: skip
    items, positives = torch.tensor(batch["items"]), torch.tensor(batch["positives"])
    return contrastive_loss(compared, items, positives, TAU, balance), compared  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**20), st.integers(1, 5), st.integers(1, 6), st.booleans(), st.booleans(),
    st.floats(0, 2), st.floats(0.3, 3), st.sampled_from([0.3, 0.7, 1.0]),
)  # fmt: skip
def test_losses_are_those_of_the_equations(
    seed: int, num: int, candidates: int, wpcl: bool, crtr: bool, beta: float, temperature: float, complete: float
) -> None:
    balance = BalanceConfig(
        wpcl=WpclConfig(enabled=wpcl, beta=beta, temperature=temperature),
        crtr=CrtrConfig(enabled=crtr, weight=0.5, temperature=temperature),
    )
    batch = draw(seed, num, candidates, complete)
    loss, compared = found(batch, balance)
    assert float(loss.total.detach()) == pytest.approx(reference(batch, balance), abs=1e-9)
    loss.total.backward()
    for side in compared.values():
        for leaf in (side.histories_UD, side.items_KD):
            assert leaf.grad is None or leaf.grad.isfinite().all()


def test_one_modality_has_nothing_to_balance() -> None:
    batch = draw(1, 4, 5, complete=1.0)
    del batch["sides"]["image"]
    loss, _ = found(batch, BalanceConfig())
    assert loss.measured == {}
    assert float(loss.total.detach()) == pytest.approx(reference(batch, PLAIN))


def test_what_is_measured() -> None:
    batch = draw(2, 4, 5, complete=1.0)
    plain, _ = found(batch, PLAIN)
    both, _ = found(batch, BalanceConfig())
    assert plain.measured.keys() == {"margin/text", "margin/image", "gap"}
    assert both.measured.keys() == {*plain.measured, "weight", "divergence"}
    assert float(both.measured["gap"]) >= abs(float(both.measured["margin/text"] - both.measured["margin/image"]))
    assert 1.5 <= float(both.measured["weight"]) <= 2
    assert not any(number.requires_grad for number in both.measured.values())


def test_the_weak_modality_gets_more_of_the_gradient_with_wpcl_than_without() -> None:
    """Text knows the answer, the image is noise: so the image is the weak one for every history."""
    rng = np.random.default_rng(0)
    batch = draw(3, 6, 6, complete=1.0)
    batch["positives"] = np.arange(6)
    text = np.eye(6, 4) + 0.1 * rng.normal(size=(6, 4))
    text[4:] = -text[:2]
    batch["sides"]["text"] |= {"u": 2 * text, "i": text}
    shares = {}
    for name, wpcl in (("plain", WpclConfig(enabled=False)), ("wpcl", WpclConfig(form="exponential", beta=1.0))):
        loss, compared = found(batch, BalanceConfig(wpcl=wpcl, crtr=CrtrConfig(enabled=False)))
        loss.total.backward()
        norms = {side: float(compared[side].items_KD.grad.norm()) for side in ("text", "image")}  # type: ignore[union-attr]
        shares[name] = norms["image"] / sum(norms.values())
    # An item's modalities are summed, so the plain loss pushes both alike.
    assert shares["plain"] == pytest.approx(0.5)
    assert shares["wpcl"] > 0.51


def test_crtr_reaches_both_modalities() -> None:
    batch = draw(4, 3, 5, complete=1.0)
    loss, with_crtr = found(batch, BalanceConfig(wpcl=WpclConfig(enabled=False), crtr=CrtrConfig(weight=50.0)))
    plain, _ = found(batch, PLAIN)
    (loss.total - plain.total.detach()).backward()
    for side in with_crtr.values():
        assert side.items_KD.grad is not None
        assert side.items_KD.grad.any(dim=1).all()
