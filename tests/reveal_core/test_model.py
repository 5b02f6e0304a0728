from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn.functional import cross_entropy

from reveal_core.backbones.sasrec import SasRec
from reveal_core.batches import Batch, Padded
from reveal_core.features import ItemFeatures
from reveal_core.losses.sampled_softmax import SampledSoftmax
from reveal_core.model import Modality, ModelConfig, SequenceRecommender, Without, build_model

SUBSETS: list[tuple[Modality, ...]] = [
    ("id",),
    ("text",),
    ("image",),
    ("id", "text"),
    ("id", "image"),
    ("text", "image"),
    ("id", "text", "image"),
]


def make_features(num_items: int = 20, text_dim: int = 12, image_dim: int = 6) -> ItemFeatures:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(num_items + 1, text_dim, generator=generator) / text_dim**0.5
    image = torch.randn(num_items + 1, image_dim, generator=generator) / image_dim**0.5
    has_text = torch.arange(num_items + 1) % 5 != 0
    has_image = torch.arange(num_items + 1) % 4 != 0
    return ItemFeatures(text * has_text[:, None], image * has_image[:, None], has_text, has_image)


def make_model(modalities: tuple[Modality, ...] = ("id", "text", "image"), **changes: object) -> SequenceRecommender:
    config = ModelConfig(hidden_dim=8, max_seq_len=6, modalities=modalities, **changes)  # type: ignore[arg-type]
    return build_model(config, make_features(), seed=0)


def make_batch() -> Batch:
    item_seq = torch.tensor([[3, 5, 8, 10], [7, 2, 0, 0], [4, 0, 0, 0]])
    pos_items = torch.tensor([[0, 8, 10, 1], [2, 9, 0, 0], [20, 0, 0, 0]])
    return Batch(item_seq=item_seq, pos_items=pos_items, seq_len=torch.tensor([4, 2, 1]))


@pytest.mark.parametrize("modalities", SUBSETS)
def test_every_parameter_belongs_to_one_modality_and_learns(modalities: tuple[Modality, ...]) -> None:
    model = make_model(modalities)
    owners = model.parameters_by_modality()
    assert set(owners) == {"id", "text", "image", "shared"}
    owned = [id(parameter) for parameters in owners.values() for parameter in parameters]
    assert sorted(owned) == sorted(id(parameter) for parameter in model.parameters())
    for modality in ("id", "text", "image"):
        assert bool(owners[modality]) == (modality in modalities)
    model.training_loss(make_batch(), torch.Generator()).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_an_item_vector_is_the_sum_of_its_modalities() -> None:
    model, features = make_model(), make_features()
    weights = dict(model.tower.named_parameters())
    vectors = model.item_vectors()
    assert vectors.shape == (21, 8)
    assert vectors.dtype == torch.float32
    for item in range(1, 21):
        expected = weights["parts.id.weight"][item].clone()
        for modality, content, has in (
            ("text", features.text, features.has_text),
            ("image", features.image, features.has_image),
        ):
            projected = weights[f"parts.{modality}.linear.weight"] @ content[item]
            expected += projected if has[item] else weights[f"parts.{modality}.missing"]
        assert torch.allclose(vectors[item], expected, atol=1e-6)
    assert not vectors[0].any()


@torch.no_grad()
def test_no_modality_drowns_the_others_at_the_start() -> None:
    features = make_features(num_items=400, text_dim=384, image_dim=48)
    tower = build_model(ModelConfig(), features, seed=0).tower
    items = torch.arange(1, 401)
    lengths = {name: part(items).norm(dim=1).mean().item() for name, part in tower.parts.items()}
    assert lengths["text"] == pytest.approx(lengths["image"], rel=0.15)
    assert lengths["text"] == pytest.approx(ModelConfig().content_init * lengths["id"], rel=0.15)
    assert ModelConfig().content_init < 5
    quieter = build_model(ModelConfig(image_init=0.5), features, seed=0).tower
    assert quieter.parts["image"](items).norm(dim=1).mean().item() == pytest.approx(lengths["image"] / 2, rel=1e-4)


@torch.no_grad()
def test_two_items_with_the_same_image_have_the_same_vector_without_an_id() -> None:
    features = make_features()
    features.image[9] = features.image[3]
    model = build_model(ModelConfig(hidden_dim=8, modalities=("image",)), features, seed=0)
    vectors = model.item_vectors()
    assert torch.equal(vectors[9], vectors[3])
    assert torch.equal(vectors[4], vectors[8])  # both without an image
    assert not torch.equal(vectors[3], vectors[5])


@torch.no_grad()
def test_a_query_is_the_backbones_output_at_the_last_item() -> None:
    model = make_model().eval()
    batch = make_batch()
    queries = model.query_vectors(batch)
    table = model.item_vectors()
    for row, length in enumerate(batch.seq_len):
        alone = Padded(item_seq=batch.item_seq[row : row + 1, :length], seq_len=length[None])
        expected = model.backbone(table[alone.item_seq], alone)[0, -1]
        assert torch.allclose(queries[row], expected, atol=1e-5)


@torch.no_grad()
def test_a_user_without_history_has_a_finite_query() -> None:
    model = make_model().eval()
    query = model.query_vectors(Padded(item_seq=torch.zeros(1, 1, dtype=torch.int64), seq_len=torch.tensor([0])))
    assert query.isfinite().all()


def test_the_full_loss_is_cross_entropy_over_the_items_without_padding() -> None:
    model, batch = make_model().eval(), make_batch()
    table = model.item_vectors()
    h = model.backbone(table[batch.item_seq], batch)
    asked = batch.pos_items > 0
    expected = cross_entropy((h @ table[1:].T)[asked], batch.pos_items[asked] - 1)
    assert torch.allclose(model.training_loss(batch, torch.Generator()), expected, atol=1e-6)


def test_the_sampled_loss_is_near_the_full_one_with_many_negatives() -> None:
    model = make_model(loss=SampledSoftmax(num_negatives=20_000)).eval()
    sampled = model.training_loss(make_batch(), torch.Generator().manual_seed(0))
    full = make_model().eval().training_loss(make_batch(), torch.Generator())
    assert sampled.item() == pytest.approx(full.item(), abs=0.01)


@torch.no_grad()
def test_vectors_without_a_modality_are_the_sum_of_the_others() -> None:
    model = make_model().eval()
    batch, everything = make_batch(), model.item_vectors()
    parts = model.tower(model.all_items)
    for name, part in parts.items():
        assert not part[0].any()
        others = Without(model, (name,)).item_vectors()  # type: ignore[arg-type]
        torch.testing.assert_close(others, everything - part)
        # What is read is without it too, as if it had been zero.
        queries = Without(model, (name,)).query_vectors(batch)  # type: ignore[arg-type]
        h = model.backbone(others[batch.item_seq], batch)
        torch.testing.assert_close(queries, h[torch.arange(len(h)), batch.seq_len - 1])
        assert not torch.allclose(queries, model.query_vectors(batch))


@torch.no_grad()
def test_new_visual_vectors_are_shown_to_the_image_part_alone() -> None:
    model = make_model()
    before, features = model.tower(model.all_items), make_features()
    model.show_images(features.image.flip(1))
    after = model.tower(model.all_items)
    has = features.has_image
    torch.testing.assert_close(after["image"][has], model.tower.project_images(features.image.flip(1)[has]))
    assert not torch.equal(after["image"][has], before["image"][has])
    assert torch.equal(after["image"][~has], before["image"][~has])
    assert torch.equal(after["text"], before["text"])


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = make_model().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    two = make_model().state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = build_model(ModelConfig(hidden_dim=8, max_seq_len=6), make_features(), seed=1).state_dict()
    assert not torch.equal(one["tower.parts.id.weight"], other["tower.parts.id.weight"])


def test_content_vectors_are_not_in_the_weights() -> None:
    assert not [name for name in make_model().state_dict() if "vectors" in name or name.endswith(".has")]


def test_a_model_cannot_read_what_the_items_do_not_have() -> None:
    with pytest.raises(ValueError, match="no text vectors"):
        build_model(ModelConfig(modalities=("id", "text")), ItemFeatures.from_frame(None, 5), seed=0)
    build_model(ModelConfig(modalities=("id",)), ItemFeatures.from_frame(None, 5), seed=0)


@pytest.mark.parametrize(
    "bad",
    [
        {"modalities": ()},
        {"modalities": ("id", "id")},
        {"hidden_dim": 0},
        {"max_seq_len": 0},
        {"hidden_dim": 9},
        {"content_init": 0.0},
        {"image_init": 0.0},
    ],
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        ModelConfig(**bad)  # type: ignore[arg-type]


def test_a_manifest_can_say_it() -> None:
    text = '{"modalities": ["id", "image"], "loss": {"kind": "sampled_softmax", "num_negatives": 9}, "hidden_dim": 32}'
    config = TypeAdapter(ModelConfig).validate_json(text)
    assert config == ModelConfig(
        modalities=("id", "image"), loss=SampledSoftmax(num_negatives=9), hidden_dim=32, backbone=SasRec()
    )
    with pytest.raises(ValidationError, match="union_tag_invalid"):
        TypeAdapter(ModelConfig).validate_json('{"loss": {"kind": "softmacks"}}')


def test_uses_content() -> None:
    assert not ModelConfig(modalities=("id",)).uses_content
    assert ModelConfig(modalities=("text",)).uses_content
    assert ModelConfig().uses_content
