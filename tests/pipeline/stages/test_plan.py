"""Which stages a manifest has, and which settings reach them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.attempt import load_checked
from pipeline.stage import Stage
from pipeline.stages import plan
from reveal_core.config import result_settings
from reveal_core.errors import UserError

DEMO = Path(__file__).resolve().parents[3] / "manifests" / "demo.yaml"
TUNED = "tuning.mode=tail"


def stages(*overrides: str) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan(load_checked(DEMO, overrides))}


def settings(*overrides: str) -> dict[str, object]:
    return {name: result_settings(stage) for name, stage in stages(*overrides).items()}


def test_tuning_is_a_stage_of_its_own_whose_features_the_later_ones_read() -> None:
    plain, tuned = stages(), stages(TUNED)
    assert "tune" not in plain
    assert list(tuned) == ["ingest", "images", "encode", "split", "tune", "train", "evaluate", "report"]
    for name in ("train", "evaluate"):
        assert any(entry.startswith("encode") for entry in plain[name].inputs)
        assert any(entry.startswith("tune") for entry in tuned[name].inputs)
        assert not any(entry.startswith("encode") for entry in tuned[name].inputs)
    assert not any("test" in entry for entry in tuned["tune"].inputs)


def test_encode_fills_the_cache_that_tuning_reads() -> None:
    assert result_settings(stages(TUNED, "tuning.image_blocks=2")["encode"])["tail_blocks"] == 2
    assert result_settings(stages(TUNED)["encode"])["tail_blocks"] is None
    assert result_settings(stages()["encode"])["tail_blocks"] == 0


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ((), "tuning.lr=0.5"),
        ((), "balance.crtr.weight=9.0"),
        ((TUNED,), "tuning.num_prompts=9"),
        ((TUNED,), "tuning.lora_rank=9"),
        ((TUNED,), "tuning.tower_batch=9"),
        ((TUNED,), "tuning.checkpointing=true"),
        ((TUNED, "balance.wpcl.enabled=false"), "balance.wpcl.beta=9.0"),
        ((TUNED, "balance.crtr.enabled=false"), "balance.crtr.weight=9.0"),
        ((TUNED, "model.modalities=[id,text]"), "balance.wpcl.beta=9.0"),
        ((TUNED, "model.modalities=[id,text]"), "balance.crtr.enabled=false"),
    ],
)
def test_what_has_no_effect_reruns_nothing(base: tuple[str, ...], change: str) -> None:
    assert settings(*base) == settings(*base, change)


@pytest.mark.parametrize("change", ["tuning.tau=0.5", "balance.wpcl.beta=9.0", "balance.crtr.enabled=false", "seed=4"])
def test_what_has_an_effect_tunes_anew(change: str) -> None:
    assert settings(TUNED)["tune"] != settings(TUNED, change)["tune"]


def test_the_recommender_can_change_without_tuning_again() -> None:
    assert settings(TUNED)["tune"] == settings(TUNED, "model.hidden_dim=32", "train.lr=0.5")["tune"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.modalities=[id]",), "tuning.mode: there is nothing to tune but text and image"),
        (("extraction.mode=soft",), "tuning.mode: a tuned image tower goes neither with learned extraction"),
        (("extraction.control=noise",), "tuning.mode: a tuned image tower goes neither with learned extraction"),
        (("data.images.use=all",), "data.images.use: a tuned image tower looks at one image of an item"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        stages(TUNED, *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variant", "wpcl", "crtr"),
    [("infonce", False, False), ("infonce+wpcl", True, False), ("infonce+crtr", False, True), ("vlm2rec", True, True)],
)
def test_the_variants_of_tuning_differ_in_their_balance_alone(variant: str, wpcl: bool, crtr: bool) -> None:
    from pipeline.variants import VARIANTS

    found, reference = settings(*VARIANTS[variant].overrides), settings(*VARIANTS["vlm2rec"].overrides)
    tune, other = found.pop("tune"), reference.pop("tune")
    assert found == reference
    assert isinstance(tune, dict)
    assert isinstance(other, dict)
    balance = tune.pop("balance")
    other.pop("balance")
    assert tune == other
    assert (balance["wpcl"]["enabled"], balance["crtr"]["enabled"]) == (wpcl, crtr)


def test_frozen_and_the_variants_of_extraction_tune_nothing() -> None:
    from pipeline.variants import VARIANTS

    for name in ("frozen", "static", "soft", "id", "reveal"):
        assert "tune" not in stages(TUNED, *VARIANTS[name].overrides)
