from __future__ import annotations

import torch

from reveal_core.encoders import Fake


def test_likeness_follows_colours_and_words() -> None:
    encoder = Fake().build()
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    images[0, 0], images[1, 0], images[2, 2] = 250, 240, 250
    patches = encoder.encode_images(images).tokens_BNE
    assert (patches[0] - patches[1]).norm() < 0.2 * (patches[0] - patches[2]).norm()
    texts = encoder.encode_texts(["red silk dress", "blue silk dress", "lawn mower"])
    assert texts[0] @ texts[1] > texts[0] @ texts[2]


def test_the_seed_changes_the_result_and_the_fingerprint() -> None:
    one, other = Fake(seed=1).build(), Fake(seed=2).build()
    images = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    assert not torch.equal(one.encode_images(images).pooled_BE, other.encode_images(images).pooled_BE)
    assert one.image_fingerprint != other.image_fingerprint
    assert not torch.equal(one.encode_texts(["a b c d e"]), other.encode_texts(["a b c d e"]))


def test_a_prompt_draws_the_patches_towards_itself() -> None:
    """Softmax attention of each patch to itself and the prompts, computed here patch by patch."""
    encoder = Fake(dim=4).build(1)
    assert (encoder.tail_blocks, encoder.num_prefix) == (1, 1)
    tokens = encoder.encode_images(torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)).tokens_BNE
    prompts = torch.tensor([[[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, -1.0, 0.2]]])
    query = next(iter(encoder.tail.parameters()))
    for place in range(16):
        own = tokens[0, 1 + place]
        seen = torch.stack([own, *prompts[0]])
        shares = (seen @ (own @ query)).softmax(0)
        torch.testing.assert_close(encoder.tail(tokens, prompts)[0, place], (shares @ seen).tanh())


def test_patches_are_the_mean_colours_of_blocks() -> None:
    encoder = Fake(dim=5).build()
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(3, 5, generator=generator)
    block = (images[0, :, 8:16, 16:24].float() / 255 - 0.5) / 0.5
    expected = (block.mean((1, 2)) @ projection).tanh()
    torch.testing.assert_close(encoder.encode_images(images).tokens_BNE[0, 1 * 4 + 2], expected)
