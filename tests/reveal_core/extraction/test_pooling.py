"""Prompted attention pooling against its formula in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from reveal_core.extraction.pooling import HEAD_DIM, AttentionPooling, attention_entropy

B, P, E, Q, H, T = 3, 7, 5, 2, 3, 4
MODES = {"soft": (True, False), "text": (False, True), "both": (True, True)}


def inputs(mode: str, size: float = 1.0) -> tuple[AttentionPooling, Tensor, Tensor | None, Tensor | None]:
    soft, text = MODES[mode]
    torch.manual_seed(0)
    pooling = AttentionPooling(E, H, Q, T if text else 0)
    prompts, texts = torch.randn(Q, E) * size, torch.randn(B, T) * size
    return pooling, torch.randn(B, P, E), prompts if soft else None, texts if text else None


def reference(
    pooling: AttentionPooling, patches: Tensor, prompts: Tensor | None, texts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """With a key for each patch and head, one number after the other."""
    weights = dict(pooling.named_parameters())
    vectors, attention = torch.zeros(B, Q, E), torch.zeros(B, Q, P)
    for b in range(B):
        for q in range(Q):
            for h in range(H):
                rows = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
                query = torch.zeros(HEAD_DIM)
                if prompts is not None:
                    query = query + weights["query.weight"][rows] @ prompts[q]
                if texts is not None:
                    of_prompt = weights["text_query.weight"][q * H * HEAD_DIM : (q + 1) * H * HEAD_DIM]
                    query = query + of_prompt[rows] @ texts[b]
                keys = [weights["key.weight"][rows] @ patches[b, p] for p in range(P)]
                raised = [math.exp(float(query @ key) / math.sqrt(HEAD_DIM)) for key in keys]
                attention[b, q] += torch.tensor(raised) / sum(raised) / H
            vectors[b, q] = sum(attention[b, q, p] * patches[b, p] for p in range(P))
    return vectors, attention


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_the_formula(mode: str) -> None:
    pooling, patches, prompts, texts = inputs(mode)
    vectors, attention = pooling(patches, prompts, texts)
    expected_vectors, expected_attention = reference(pooling, patches, prompts, texts)
    torch.testing.assert_close(attention, expected_attention)
    torch.testing.assert_close(vectors, expected_vectors)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(B, Q))
    assert not torch.allclose(attention[:, 0], attention[:, 1])
    assert float(attention.std()) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_one_item_alone_gets_what_it_gets_among_others(mode: str) -> None:
    pooling, patches, prompts, texts = inputs(mode)
    together, _ = pooling(patches, prompts, texts)
    for b in range(B):
        alone, _ = pooling(patches[b : b + 1], prompts, None if texts is None else texts[b : b + 1])
        torch.testing.assert_close(alone[0], together[b])


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_questions_of_size_zero_give_the_mean(mode: str) -> None:
    pooling, patches, prompts, texts = inputs(mode, size=0.0)
    vectors, attention = pooling(patches, prompts, texts)
    torch.testing.assert_close(attention, torch.full((B, Q, P), 1 / P))
    torch.testing.assert_close(vectors, patches.mean(dim=1, keepdim=True).expand(B, Q, E))


@torch.no_grad()
def test_learning_begins_near_the_mean_with_prompts_that_differ() -> None:
    torch.manual_seed(0)
    pooling = AttentionPooling(192, 4, 4, 384)
    patches = torch.randn(8, 196, 192)
    prompts, texts = 0.1 * torch.randn(4, 192), torch.nn.functional.normalize(torch.randn(8, 384), dim=1)
    _, attention = pooling(patches, prompts, texts)
    entropy = attention_entropy(attention)
    assert 0.99 < float(entropy.min()) < float(entropy.max()) < 1
    assert float((attention[:, 0] - attention[:, 1]).abs().mean()) > 0.02 / 196


def test_nobody_asks() -> None:
    pooling, patches, *_ = inputs("both")
    with pytest.raises(ValueError, match="nothing asks"):
        pooling(patches, None, None)


def test_entropy_in_units_of_the_uniform_one() -> None:
    attention = torch.randn(B, Q, P).softmax(dim=2)
    shares = attention.numpy()
    expected = -(shares * np.log(shares)).sum(axis=2) / math.log(P)
    torch.testing.assert_close(attention_entropy(attention), torch.from_numpy(expected))
    torch.testing.assert_close(attention_entropy(torch.full((1, 1, P), 1 / P)), torch.ones(1, 1))
    one_place = torch.eye(P)[None, :1]
    assert attention_entropy(one_place).tolist() == [[0.0]]
