"""Whatever stands in a manifest, it is taken or refused with one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.spoiling import EDITS, Edit, checked_as_promised, spoilt

MANIFESTS = sorted((Path(__file__).parents[2] / "manifests").glob("*.yaml"))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.stem)
@settings(max_examples=20, deadline=None)
@given(edits=EDITS)
def test_a_spoilt_manifest_is_taken_or_refused_in_one_line(manifest: Path, edits: list[Edit]) -> None:
    checked_as_promised(spoilt(manifest.read_bytes(), edits))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0",
        b"- 1\n- 2\n",
        b"name: !!python/object/apply:os.system [ls]\n",
        b"a: &a [*a, *a]\nname: *a\n",
        b"".join(b"x%d: &x%d [%s]\n" % (i, i, b",".join([b"*x%d" % (i - 1)] * 9) if i else b"1") for i in range(12)),
        b"name: " + b"[" * 3_000,
        b"name: " + b"x" * 10_000_000,
        b"data: {adapter: {kind: " + b"a" * 100_000 + b"}}",
        b"name: 2020-01-01\nseed: .nan\n",
        b"<<: {name: 1}\n<<: 3\n",
        b"name: a\nname: b\n",
    ],
    ids=range(12),
)
def test_hostile_manifests_are_refused_in_one_line(text: bytes) -> None:
    checked_as_promised(text)
