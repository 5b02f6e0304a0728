"""Vision-language models of transformers, against the library's own way from a picture and a chat to states."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from reveal_core.encoders import HfVlm
from reveal_core.encoders.hf_vlm import HfVlmEncoder
from reveal_core.errors import UserError

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="the hf extra is not installed")
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "gemma3", "internvl")
PROMPTS = ("a red dress", "", "blue jeans for children, with two pockets")


def config(folder: Path | str, **options: Any) -> HfVlm:
    return HfVlm(model=str(folder), device="cpu", **{"image_size": 32, **options})


def pixels(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@functools.cache
def loaded(folder: Path) -> tuple[Any, Any]:
    """The model with its head and its processor, as the library reads them."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


@torch.no_grad()
def reference(folder: Path, image: Tensor, said: str | Sequence[dict[str, str]]) -> tuple[Any, list[Tensor]]:
    """The model with its head, and the states of the image's tokens: what enters each layer, and after the last norm.

    One picture at a time, a PIL image as people use it, through the whole of the model's own processor.

    Args:
        said: the message of a chat, or plain text.
    """
    model, processor = loaded(folder)
    states: list[Tensor] = []
    decoder = model.get_decoder()
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) for layer in decoder.layers]
    hooks.append(decoder.norm.register_forward_hook(lambda _, inputs, output: states.append(output)))
    options = {"crop_to_patches": False} if "internvl" in str(folder) else {}
    if not isinstance(said, str):
        said = processor.apply_chat_template([{"role": "user", "content": said}])
        options["add_special_tokens"] = False
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    inputs = processor(text=[said], images=[picture], return_tensors="pt", **options)
    model(**inputs)
    for hook in hooks:
        hook.remove()
    return model, [state[0, inputs["input_ids"][0] == model.config.image_token_id] for state in states]


@pytest.mark.parametrize("family", FAMILIES)
def test_patches_are_the_states_that_the_library_gives_for_a_prompt_and_an_image(
    family: str, tiny_vlm: Callable[[str], Path]
) -> None:
    folder = tiny_vlm(family)
    encoder = config(folder, prompt="{title}").build()
    found = encoder.encode_images(pixels(), PROMPTS)
    for image, prompt, patches_PE, pooled_E in zip(pixels(), PROMPTS, *found, strict=True):
        said = [{"type": "text", "text": prompt}] if prompt else []
        _, states = reference(folder, image, [*said, {"type": "image"}])
        torch.testing.assert_close(patches_PE, states[-1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(pooled_E, states[-1].mean(dim=0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_states_of_a_chosen_layer(family: str, layer: int, tiny_vlm: Callable[[str], Path]) -> None:
    """Layers behind it are gone, not only unused; its states go through the last norm."""
    folder = tiny_vlm(family)
    encoder = config(folder, layer=layer).build()
    model, states = reference(folder, pixels()[0], [{"type": "image"}])
    with torch.no_grad():
        expected = model.get_decoder().norm(states[layer]) if layer < 3 else states[layer]
    torch.testing.assert_close(encoder.encode_images(pixels(1)).tokens_BNE[0], expected, rtol=1e-3, atol=1e-4)
    assert len(encoder._decoder.layers) == layer
    if layer < 3:
        assert encoder.image_fingerprint != config(folder).build().image_fingerprint


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_vector_is_the_mean_state_over_its_tokens(family: str, tiny_vlm: Callable[[str], Path]) -> None:
    folder = tiny_vlm(family)
    texts = ["a red dress", "silk", "x " * 400]
    found = config(folder, batch_size=2).build().encode_texts(texts)
    model, processor = loaded(folder)
    tokenizer = processor.tokenizer
    for text, vector in zip(texts, found, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"][:, :512]
        with torch.no_grad():
            mean = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].mean(dim=0)
        torch.testing.assert_close(vector, mean / mean.norm(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_behind_the_image_no_prompt_could_move_its_tokens(
    family: str, tiny_vlm: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published trap: a causal decoder would show the same tokens, whatever the prompt says."""
    encoder: Any = config(tiny_vlm(family), prompt="{title}").build()
    image = pixels(1).expand(2, -1, -1, -1)
    prompts = ["a red dress", "blue jeans for children"]
    before = encoder.encode_images(image, prompts).tokens_BNE
    assert (before[0] - before[1]).abs().amax(-1).min() > 0.003
    ask = encoder._ask
    monkeypatch.setattr(encoder, "_ask", lambda prompt: f"{ask('')}\n{prompt}")
    behind = encoder.encode_images(image, prompts).tokens_BNE
    torch.testing.assert_close(behind[0], behind[1], rtol=1e-5, atol=1e-6)


IMAGE_FIRST = """{% for m in messages %}{% for part in m.content if part.type == 'image' %}IMAGE{% endfor %}
{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endfor %}"""


@pytest.mark.parametrize(("family", "image"), [("qwen2_5_vl", "<|image_pad|>"), ("gemma3", "<start_of_image>")])
@pytest.mark.parametrize("template", [IMAGE_FIRST, None], ids=["images come first", "no chats"])
def test_a_chat_that_would_put_the_prompt_behind_the_image_is_not_held(
    family: str, image: str, template: str | None, changed_vlm: Callable[..., Path]
) -> None:
    chat = None if template is None else template.replace("IMAGE", image)
    folder = changed_vlm(family, "copy", {"chat_template.jinja": chat})
    encoder = config(folder, prompt="{title}").build()
    found = encoder.encode_images(pixels(1).expand(3, -1, -1, -1), ["a red dress", "blue jeans", ""]).tokens_BNE
    for other in found[1:]:
        assert (found[0] - other).abs().amax(-1).min() > 0.003
    for text, patches_PE in zip((f"a red dress\n{image}", f"blue jeans\n{image}", image), found, strict=True):
        _, states = reference(folder, pixels()[0], text)
        torch.testing.assert_close(patches_PE, states[-1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_that_mean_an_image_to_the_model_do_no_harm(family: str, tiny_vlm: Callable[[str], Path]) -> None:
    encoder: Any = config(tiny_vlm(family), prompt="{title}").build()
    special = [encoder._image_token, *encoder._processor.tokenizer.all_special_tokens]
    assert len(special) > 4
    nasty = [f"a {token} dress" for token in special]
    found = encoder.encode_images(pixels(1).expand(len(nasty), -1, -1, -1), nasty).tokens_BNE
    plain = encoder.encode_images(pixels(1), ["a   dress"]).tokens_BNE
    torch.testing.assert_close(found, plain.expand_as(found), rtol=1e-3, atol=1e-4)
    vectors = encoder.encode_texts([*nasty, "<pad>"])
    torch.testing.assert_close(vectors[0], encoder.encode_texts(["a   dress"])[0], rtol=1e-3, atol=1e-4)
    assert vectors.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_image_in_a_batch_has_its_own_prompt_in_any_thread(family: str, tiny_vlm: Callable[[str], Path]) -> None:
    encoder: Any = config(tiny_vlm(family), prompt="{title}").build()
    prompts = [f"{'very ' * (k % 4)}number {k}" for k in range(8)]
    alone = [encoder.encode_images(image[None], [prompt]) for image, prompt in zip(pixels(8), prompts, strict=True)]
    batch = encoder.encode_images(pixels(8), prompts)
    with ThreadPoolExecutor(4) as pool:
        for found, expected, row in zip(
            pool.map(encoder.encode_images, pixels(8).split(1), [[prompt] for prompt in prompts]),
            alone,
            batch.tokens_BNE,
            strict=True,
        ):
            torch.testing.assert_close(found.tokens_BNE, expected.tokens_BNE, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(row, expected.tokens_BNE[0], rtol=1e-3, atol=1e-4)


class OneAtATime:
    """A processor that fails when a second thread comes in, and gives it time to."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.free = processor, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, **given: Any) -> Any:
        assert self.free.acquire(blocking=False)
        time.sleep(0.01)
        found = self.processor(**given)
        self.free.release()
        return found


def test_no_two_threads_are_in_the_processor(tiny_vlm: Callable[[str], Path]) -> None:
    """A tokenizer keeps the padding of a call in itself: two calls would mix theirs up, once in a while."""
    encoder: Any = config(tiny_vlm("gemma3")).build()
    encoder._processor = OneAtATime(encoder._processor)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(encoder.encode_images, pixels(8).split(1)))) == 8


@pytest.mark.parametrize(
    ("grid", "cells"), [(1, [(0, 4, 0, 4)]), (2, [(0, 2, 0, 2), (0, 2, 2, 4), (2, 4, 0, 2), (2, 4, 2, 4)])]
)
def test_tokens_may_be_kept_as_means_of_parts_of_the_image(
    grid: int, cells: list[tuple[int, int, int, int]], tiny_vlm: Callable[[str], Path]
) -> None:
    whole = config(tiny_vlm("gemma3")).build()
    pooled = replace(config(tiny_vlm("gemma3")), grid=grid).build()
    assert (pooled.grid, pooled.patch_dim) == ((grid, grid), 32)
    tokens = whole.encode_images(pixels()).tokens_BNE.view(3, 4, 4, 32)
    expected = torch.stack([tokens[:, a:b, c:d].mean(dim=(1, 2)) for a, b, c, d in cells], dim=1)
    found = pooled.encode_images(pixels())
    torch.testing.assert_close(found.tokens_BNE, expected)
    torch.testing.assert_close(found.pooled_BE, tokens.mean(dim=(1, 2)))
    assert pooled.image_fingerprint != whole.image_fingerprint
    assert pooled.text_fingerprint == whole.text_fingerprint


@pytest.mark.parametrize(("family", "size"), [("qwen2_5_vl", 448), ("qwen3_vl", 448), ("gemma3", 32), ("internvl", 32)])
def test_the_size_is_the_models_own_unless_it_takes_any(
    family: str, size: int, tiny_vlm: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HfVlmEncoder, "_probe", lambda self: (self.preprocess.size[0] // 8, 32))
    encoder = config(tiny_vlm(family), image_size=None).build()
    assert (encoder.preprocess.size, encoder.grid) == ((size, size), (size // 8, size // 8))
    assert encoder.preprocess.resize_mode == "squash"


def test_preprocessing_is_that_of_the_models_processor(
    tiny_vlm: Callable[[str], Path], changed_vlm: Callable[..., Path]
) -> None:
    content = json.loads((tiny_vlm("gemma3") / "processor_config.json").read_text())
    content["image_processor"] |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    folder = changed_vlm("gemma3", "copy", {"processor_config.json": json.dumps(content)})
    own, other = config(tiny_vlm("gemma3")).build(), config(folder).build()
    assert (own.preprocess.mean, own.preprocess.interpolation) == ((0.5, 0.5, 0.5), "bilinear")
    assert (other.preprocess.mean, other.preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert config(tiny_vlm("internvl")).build().preprocess.interpolation == "bicubic"
    difference = own.encode_images(pixels()).tokens_BNE - other.encode_images(pixels()).tokens_BNE
    assert difference.abs().max() > 0.01


def test_the_fingerprint_follows_the_files_and_not_their_place(
    tiny_vlm: Callable[[str], Path], changed_vlm: Callable[..., Path]
) -> None:
    chat = "{{ bos_token }}" + (tiny_vlm("gemma3") / "chat_template.jinja").read_text()
    same = changed_vlm("gemma3", "same", {"README.md": "hello"})
    other = changed_vlm("gemma3", "other", {"chat_template.jinja": chat})
    one = config(tiny_vlm("gemma3")).build()
    assert config(same).build().image_fingerprint == one.image_fingerprint
    assert config(other).build().image_fingerprint != one.image_fingerprint
    names = {path.name for path in config(same).weights_files()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert HfVlm(model="google/gemma-3-4b-it").weights_files() == ()


def test_a_downloaded_model_is_the_same_as_a_local_one(
    tiny_vlm: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tiny_vlm("gemma3")))
    hub, local = config("google/gemma-3-4b-it").build(), config(tiny_vlm("gemma3")).build()
    assert hub.image_fingerprint == local.image_fingerprint
    assert torch.equal(hub.encode_images(pixels()).tokens_BNE, local.encode_images(pixels()).tokens_BNE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": "a dress"}, "names no field"),
        ({"prompt": "{colour}"}, "no field 'colour'"),
        ({"layer": 0}, "layer must be at least 1"),
        ({"grid": 0}, "grid must be at least 1"),
        ({"image_size": -1}, "image_size must be at least 1"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HfVlm(model="x", **options)


@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("gemma3", {"layer": 4}, "encoder.layer: there are not 4 layers in the language model (use 3 at most)"),
        ("gemma3", {"grid": 5}, "encoder.grid: 5 rows of patches, but an image has 4 rows of tokens (use 4 at most)"),
        ("gemma3", {"image_size": 40}, "encoder.image_size: the model takes no image of 40 x 40 pixels"),
        ("qwen2_5_vl", {"image_size": 36}, "encoder.image_size: the model takes no image of 36 x 36 pixels"),
        ("gemma3", {"quantization": "int4"}, "encoder.quantization: quantised weights need a GPU (use none)"),
    ],
)
def test_what_does_not_fit_the_model_is_one_clear_line(
    family: str, options: dict[str, Any], words: str, tiny_vlm: Callable[[str], Path]
) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as raised:
        config(tiny_vlm(family), **options).build()
    assert "\n" not in str(raised.value)


def test_image_tokens_that_are_no_square(tiny_vlm: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HfVlmEncoder, "_image_states", lambda *_: torch.zeros(1, 12, 32))
    with pytest.raises(UserError, match="the model makes 12 tokens of a square image, which are no square"):
        config(tiny_vlm("gemma3")).build()


def test_the_registry_of_encoders_does_not_import_the_library() -> None:
    code = "import sys, reveal_core.encoders; print('transformers' in sys.modules, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["False", "False"]
