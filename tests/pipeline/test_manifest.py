"""Manifests: strict to the last key, and every mistake is one line that says how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.adapters.movielens import MovieLens
from pipeline.manifest import load_manifest
from reveal_core.backbones.sasrec import SasRec
from reveal_core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "manifests").glob("*.yaml"))
MINIMAL = "name: test\ndata: {adapter: {kind: movielens}, root: somewhere}\n"


def load(tmp_path: Path, text: str, *overrides: str):
    path = tmp_path / "test.yaml"
    path.write_text(text)
    return load_manifest(path, overrides)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_manifest_loads(path: Path) -> None:
    assert load_manifest(path).name == path.stem


def test_all_data_sets_have_a_manifest() -> None:
    names = {path.stem for path in SHIPPED}
    assert {"demo", "ml-100k", "ml-1m", "hm-week", "sports", "beauty", "toys"} <= names


def test_a_minimal_manifest_takes_every_default(tmp_path: Path) -> None:
    manifest = load(tmp_path, MINIMAL)
    assert manifest.data.adapter == MovieLens()
    assert manifest.model.modalities == ("id", "text", "image")
    assert manifest.encoder.kind == "embedded"
    assert manifest.split.kind == "leave_last_out"
    assert manifest.model.backbone == SasRec()


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("trian: {lr: 0.1}", r"trian: unknown key (did you mean train?)"),
        ("train: {learning: 0.1}", "train.learning: unknown key (valid keys: max_epochs,"),
        ("train: {batchsize: 7}", "train.batchsize: unknown key (did you mean batch_size?)"),
        (
            "model: {backbone: {kind: sasrec, num_layer: 1}}",
            "model.backbone.num_layer: unknown key (did you",
        ),
        ("model: {backbone: {kind: sasrek}}", "model.backbone.kind: no kind 'sasrek' (did you mean sasrec?)"),
        ("model: {backbone: {num_layers: 1}}", "model.backbone: kind is required (one of sasrec, gru4rec, "),
        ("model: {backbone: {kind: gru4rec, dropout: 2.0}}", "model.backbone: dropout must lie in [0, 1)"),
        ("model: {backbone: {kind: gru4rec, num_heads: 2}}", "model.backbone.num_heads: unknown key (did you"),
        ("model: {loss: {kind: sampled_softmax, num_negatives: 0}}", "model.loss: num_negatives must be at least 1"),
        ("model: {loss: {kind: softmax, negatives: 1}}", "model.loss.negatives: unknown key"),
        ("encoder: {kind: openclip, model: x}", "encoder.kind: no kind 'openclip' (did you mean open_clip?)"),
        ("encoder: {batch_size: 3}", "encoder: kind is required (one of "),
        ("encoder: {kind: fake, batchsize: 3}", "encoder.batchsize: unknown key (did you mean batch_size?)"),
        ("train: {lr: fast}", "train.lr: should be a valid number (got 'fast')"),
        ("train: {lr: -1}", "train: lr"),
        ("train: {max_epochs: 1.5}", "train.max_epochs: should be a valid integer"),
        ("model: {modalities: [id, sound]}", "model.modalities.1: should be 'id', 'text' or 'image' (got 'sound')"),
        ("seed: -1", "seed: should be greater than or equal to 0"),
        ("seed: 1\nseed: 2", "test.yaml:4: not valid YAML: key 'seed' given twice"),
        ("train: {lr: 1\n", "test.yaml:"),
        ("evaluate: {ks: !!python/object/apply:os.getcwd []}", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_clear_line(tmp_path: Path, addition: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, MINIMAL + addition)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(tmp_path / "test.yaml"))
    assert message in line


def test_what_is_required_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root: is required"):
        load(tmp_path, "name: test\ndata: {adapter: {kind: movielens}}")


def test_a_misspelt_required_key_is_named_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.rot: unknown key \(did you mean root\?; 1 more\)"):
        load(tmp_path, "name: test\ndata: {adapter: {kind: movielens}, rot: x}")


def test_overrides_win_and_are_yaml(tmp_path: Path) -> None:
    manifest = load(
        tmp_path, MINIMAL, "train.lr=2e-3", "model.modalities=[id]", "data.adapter={kind: hm}", "model.hidden_dim=32"
    )
    assert manifest.train.lr == 0.002
    assert manifest.model.modalities == ("id",)
    assert manifest.data.adapter.kind == "hm"
    assert manifest.model.hidden_dim == 32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "not of the form a.b=value"),
        ("=1", "not of the form a.b=value"),
        ("name.first=x", "name is a value, not a section"),
        ("train.lr={", "not valid YAML"),
        ("train.rl=1", "train.rl: unknown key"),
    ],
)
def test_a_wrong_override_is_said(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, MINIMAL, override)


def test_variables_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name: test\ndata: {adapter: {kind: movielens}, root: '${REVEAL_TEST_ROOT:-fallback}/ml'}"
    assert load(tmp_path, text).data.root == "fallback/ml"
    monkeypatch.setenv("REVEAL_TEST_ROOT", "/there")
    assert load(tmp_path, text).data.root == "/there/ml"


def test_a_variable_without_value_or_default_is_said(tmp_path: Path) -> None:
    text = "name: test\ndata: {adapter: {kind: movielens}, root: '${REVEAL_NOT_SET}/ml'}"
    with pytest.raises(UserError, match=r"data\.root: the environment has no REVEAL_NOT_SET"):
        load(tmp_path, text)


def test_a_missing_manifest_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text(MINIMAL)
    with pytest.raises(UserError, match=r"no such manifest \(did you mean .*demo.yaml\?\)"):
        load_manifest(tmp_path / "dmeo.yaml")
