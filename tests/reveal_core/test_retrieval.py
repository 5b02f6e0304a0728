from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reveal_core import retrieval
from reveal_core.fusion import Fusion
from reveal_core.retrieval import build_index, load_index, save_index, search
from reveal_core.sequences import Sequences


def brute_force(
    vectors: np.ndarray, queries: np.ndarray, k: int, seen: list[list[int]]
) -> tuple[list[list[int]], list[list[float]]]:
    items, scores = [], []
    for query, had in zip(queries, seen, strict=True):
        ranked = sorted((-float(query @ vector), item) for item, vector in enumerate(vectors, start=1))
        kept = [(item, -score) for score, item in ranked if item not in had][:k]
        kept += [(0, -np.inf)] * (k - len(kept))
        items.append([item for item, _ in kept])
        scores.append([score for _, score in kept])
    return items, scores


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_search_is_brute_force_with_ties_in_the_order_of_items(data: st.DataObject) -> None:
    num_items, num_queries = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 5))
    k = data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    # Small whole numbers: every product is exact, and ties abound.
    vectors = rng.integers(-1, 2, (num_items, 3)).astype(np.float32)
    queries = rng.integers(-1, 2, (num_queries, 3)).astype(np.float32)
    had = st.lists(st.integers(1, num_items), max_size=num_items + 2)
    seen = [data.draw(had) for _ in range(num_queries)]
    items, scores = search(build_index(vectors), queries, k, Sequences.from_lists(seen))
    expected_items, expected_scores = brute_force(vectors, queries, k, seen)
    assert items.tolist() == expected_items
    assert scores.tolist() == expected_scores


def test_a_large_search_in_small_pieces_is_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-3, 4, (700, 6)).astype(np.float32)
    queries = rng.integers(-3, 4, (90, 6)).astype(np.float32)
    queries[7] = 0  # everything ties
    seen = [rng.choice(np.arange(1, 701), size, replace=False).tolist() for size in rng.integers(0, 300, 90)]
    monkeypatch.setattr(retrieval, "MAX_FETCHED", 2_000)
    items, scores = search(build_index(vectors), queries, 120, Sequences.from_lists(seen))
    expected_items, expected_scores = brute_force(vectors, queries, 120, seen)
    assert items.tolist() == expected_items
    assert scores.tolist() == expected_scores


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_search_of_items_with_several_vectors_is_brute_force(data: st.DataObject) -> None:
    num_items, num_queries, num_vectors = (data.draw(st.integers(1, most)) for most in (60, 5, 4))
    k, dim = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    fusion = Fusion(num_vectors, data.draw(st.integers(0, num_vectors - 1)), data.draw(st.floats(-3, 3, width=32)))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    vectors = rng.integers(-1, 2, (num_items, num_vectors, dim)).astype(np.float32)
    queries = rng.integers(-1, 2, (num_queries, dim)).astype(np.float32)
    had = st.lists(st.integers(1, num_items), max_size=num_items + 2)
    seen = [data.draw(had) for _ in range(num_queries)]
    index = build_index(vectors.reshape(num_items, -1), num_vectors)
    items, scores = search(index, queries, k, Sequences.from_lists(seen), fusion)
    for query, left_out, found, found_scores in zip(queries, seen, items, scores, strict=True):
        fused = fusion.fuse(torch.from_numpy(vectors @ query).T).tolist()
        best = sorted((score for item, score in enumerate(fused, start=1) if item not in left_out), reverse=True)[:k]
        shown, nothing = found[: len(best)].tolist(), k - len(best)
        assert found[len(best) :].tolist() == [0] * nothing
        assert found_scores[len(best) :].tolist() == [-np.inf] * nothing
        assert len(set(shown)) == len(shown)
        assert not {0, *left_out} & set(shown)
        # The softmax of a fusion may round differently from one shape of tensors to another.
        assert found_scores[: len(best)].tolist() == pytest.approx(best, abs=1e-5)
        assert [fused[item - 1] for item in shown] == pytest.approx(best, abs=1e-5)


def test_a_large_search_of_items_with_several_vectors_goes_deeper_until_it_is_sure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Items whose vectors disagree come first by their largest product, and last by their score."""
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((600, 3, 8)), rng.standard_normal((40, 8))
    vectors[:300, 1:] = vectors[:300, :1]
    vectors[300:, 0] *= 3
    vectors[300:, 1:] = -vectors[300:, :1] / 2
    vectors, queries = vectors.astype(np.float32), queries.astype(np.float32)
    fusion = Fusion(3)
    seen = [rng.choice(np.arange(1, 601), size, replace=False).tolist() for size in rng.integers(0, 60, 40)]
    monkeypatch.setattr(retrieval, "MAX_FETCHED", 20_000)
    items, scores = search(build_index(vectors.reshape(600, -1), 3), queries, 20, Sequences.from_lists(seen), fusion)
    for query, left_out, found, found_scores in zip(queries.astype(float), seen, items, scores, strict=True):
        exact = (vectors.astype(float) @ query).mean(axis=1)
        exact[np.array(left_out, dtype=int) - 1] = -np.inf
        assert found.tolist() == (np.argsort(-exact)[:20] + 1).tolist()
        assert np.allclose(found_scores, np.sort(exact)[::-1][:20], atol=1e-5)


def test_an_index_survives_the_disk_byte_for_byte(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((50, 8), dtype=np.float32)
    save_index(build_index(vectors), tmp_path / "a")
    save_index(build_index(vectors.copy()), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    nobody = Sequences.from_lists([[]] * 4)
    for fresh, loaded in zip(
        search(build_index(vectors), vectors[:4], 5, nobody),
        search(load_index(tmp_path / "a"), vectors[:4], 5, nobody),
        strict=True,
    ):
        assert np.array_equal(fresh, loaded)


def test_no_queries() -> None:
    items, scores = search(
        build_index(np.ones((3, 2), np.float32)), np.ones((0, 2), np.float32), 2, Sequences.from_lists([])
    )
    assert items.shape == scores.shape == (0, 2)


def test_what_cannot_be_searched_is_refused() -> None:
    index = build_index(np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match="1 queries but 2"):
        search(index, np.ones((1, 2), np.float32), 2, Sequences.from_lists([[], []]))
    with pytest.raises(ValueError, match="not finite"):
        search(index, np.full((1, 2), np.nan, np.float32), 2, Sequences.from_lists([[]]))
