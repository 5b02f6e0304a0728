from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.files import FileDigests
from pipeline.shards import ArrayStore
from pipeline.stage import Workspace
from pipeline.text_cache import filled_tokens, filled_vectors, text_keys
from pipeline.tower_sources import CachedTexts
from reveal_core.encoders.fake import Fake, FakeEncoder
from tests.pipeline.stages.conftest import Recorder

TEXTS = ["a red dress", None, "blue", "a red dress", "one two three four five six seven eight nine"]


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path, tmp_path / "cache", FileDigests(tmp_path / "d.sqlite"), Recorder())  # type: ignore[arg-type]


def kept(store: ArrayStore) -> int:
    """Rows in all shards."""
    return sum(pa.ipc.open_file(str(path)).get_batch(0).num_rows for path in store.folder.glob("*.arrow"))


def test_tokens_and_vectors_are_kept_once_for_each_text(work: Workspace) -> None:
    encoder = FakeEncoder(Fake(dim=16))
    cut, keys = encoder.cut_texts(1), text_keys(TEXTS)
    assert (keys[1], keys[0]) == (None, keys[3])
    tokens, vectors = filled_tokens(cut, TEXTS, work, 2), filled_vectors(encoder, TEXTS, work, 2)
    assert kept(tokens) == kept(vectors) == 3
    asked = [str(keys[0]), str(keys[4])]
    found = cut.encode([str(TEXTS[0]), str(TEXTS[4])])
    np.testing.assert_array_equal(tokens.read(asked, "tokens"), found.tokens_BNE.half().numpy())
    np.testing.assert_array_equal(tokens.read(asked, "mask"), found.mask_BN.numpy())
    expected = encoder.encode_texts([str(TEXTS[0])]).half().numpy()
    np.testing.assert_array_equal(vectors.read(asked[:1], "vector"), expected)
    announced = work.progress.announced["encode texts"]  # type: ignore[attr-defined]
    assert announced == 3
    filled_tokens(cut, TEXTS, work, 2)
    assert work.progress.announced["encode texts"] == 0  # type: ignore[attr-defined]


def test_what_is_read_has_no_more_padding_than_it_needs(work: Workspace) -> None:
    encoder = FakeEncoder(Fake(dim=16))
    cut = encoder.cut_texts(1)
    rows = CachedTexts(filled_tokens(cut, TEXTS, work, 2), [None, *text_keys(TEXTS)])
    assert rows.has.tolist() == [False, True, False, True, True, True]
    tokens, mask = rows.read(np.array([1, 3]))
    assert tokens.shape == (2, 3, 16)
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert cut.tail is not None
    vectors = cut.tail(tokens, mask).numpy()
    np.testing.assert_allclose(vectors, encoder.encode_texts(["a red dress", "blue"]).numpy(), atol=1e-6)
