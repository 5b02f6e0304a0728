"""For all tests: one thread for each process, since the suite runs several processes side by side, and the same
examples of hypothesis in every run, so that the same code always has the same verdict. And no garbage collector that
walks through all that was imported again and again: that took a tenth of the time.

New examples: `make test ARGS=--hypothesis-profile=default`, and `make fuzz`.
"""

from __future__ import annotations

import functools
import gc
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.tiny_run import TinyRun

settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(_name, "1")

gc.disable()  # until everything is imported


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Whoever changes something in it works on a copy."""
    from tests.tiny_run import make_run

    return make_run(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def learned_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """Likewise, with extraction that has learned."""
    from tests.tiny_run import make_run

    return make_run(tmp_path_factory.mktemp("learned"), extraction__mode="soft")


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random vision-language model of a family of transformers: images of 32 x 32 pixels, 4 x 4 image
    tokens, 3 layers of width 32."""
    pytest.importorskip("transformers", reason="the hf extra is not installed")

    @functools.cache
    def folder(family: str) -> Path:
        import torch

        torch.manual_seed(0)
        model, processor = _FAMILIES[family]()
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():  # Gemma 3 begins blind
                torch.nn.init.normal_(parameter, std=0.2)
        path = tmp_path_factory.mktemp("vlm") / family
        model.save_pretrained(path)
        processor.save_pretrained(path)
        return path

    return folder


@pytest.fixture
def changed_vlm(tiny_vlm: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a family's model under another name, with these files in it; None = without the file."""

    def copy(family: str, name: str, files: Mapping[str, str | bytes | None]) -> Path:
        folder = tmp_path / name
        shutil.copytree(tiny_vlm(family), folder)
        for file, content in files.items():
            if content is None:
                (folder / file).unlink()
            else:
                (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return copy


#: Of the language model, in every family.
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
#: Of the image tower, in every family; other names for the same.
_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    **dict.fromkeys(("num_hidden_layers", "depth"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads"), 2),
    "patch_size": 4,
    "out_hidden_size": 32,
}


def _tokenizer(*special: str, **named: str) -> Any:
    """Bytes as tokens behind ``<bos>``, and special ones: some families want them by name."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", *special, *named.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", extra_special_tokens=named or list(special)
    )


def _template(image: str) -> str:
    """A chat: each message's texts and images in the order in which they were given."""
    content = "{% for part in m.content %}{{ part.text if part.type == 'text' else '" + image + "' }}{% endfor %}"
    return "{% for m in messages %}[{{ m.role }}]\n" + content + "\n{% endfor %}"


def _qwen2_5_vl() -> tuple[Any, Any]:
    import transformers as hf

    tokenizer = _tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    config = hf.Qwen2_5_VLConfig(
        text_config=_TEXT | _qwen_text(tokenizer),
        vision_config=_VISION | {"window_size": 16, "fullatt_block_indexes": [1]},
        **_qwen_ids(tokenizer),
    )
    parts = hf.Qwen2VLImageProcessor(patch_size=4, min_pixels=64), tokenizer, hf.Qwen2VLVideoProcessor(patch_size=4)
    chat = _template("<|vision_start|><|image_pad|><|vision_end|>")
    return hf.Qwen2_5_VLForConditionalGeneration(config), hf.Qwen2_5_VLProcessor(*parts, chat_template=chat)


def _qwen3_vl() -> tuple[Any, Any]:
    import transformers as hf

    tokenizer = _tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    config = hf.Qwen3VLConfig(
        text_config=_TEXT | _qwen_text(tokenizer) | {"head_dim": 8},
        vision_config=_VISION | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
        **_qwen_ids(tokenizer),
    )
    parts = hf.Qwen2VLImageProcessor(patch_size=4, min_pixels=64), tokenizer, hf.Qwen3VLVideoProcessor(patch_size=4)
    chat = _template("<|vision_start|><|image_pad|><|vision_end|>")
    return hf.Qwen3VLForConditionalGeneration(config), hf.Qwen3VLProcessor(*parts, chat_template=chat)


def _qwen_text(tokenizer: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    return {"vocab_size": len(tokenizer), "rope_parameters": rope}


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    kinds = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    return {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for kind, token in kinds.items()}


def _gemma3() -> tuple[Any, Any]:
    import transformers as hf

    tokenizer = _tokenizer(image_token="<image>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    layers = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 8}
    config = hf.Gemma3Config(
        text_config=_TEXT | layers | {"vocab_size": len(tokenizer), "head_dim": 8},
        vision_config=_VISION | {"image_size": 32},
        mm_tokens_per_image=16,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = hf.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    chat = "{{ bos_token }}" + _template("<start_of_image>")
    processor = hf.Gemma3Processor(images, tokenizer, chat_template=chat, image_seq_length=16)
    return hf.Gemma3ForConditionalGeneration(config), processor


def _internvl() -> tuple[Any, Any]:
    import transformers as hf

    names = {"start_image_token": "<img>", "end_image_token": "</img>", "video_token": "<video>"}
    tokenizer = _tokenizer(context_image_token="<image>", **names)
    config = hf.InternVLConfig(
        text_config=_TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config=_VISION | {"image_size": [32, 32], "patch_size": [4, 4]},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    size = {"height": 32, "width": 32}
    parts = hf.GotOcr2ImageProcessor(size=size, crop_to_patches=True), tokenizer, hf.InternVLVideoProcessor(size=size)
    chat = _template("<image>\n")
    return hf.InternVLForConditionalGeneration(config), hf.InternVLProcessor(
        *parts, image_seq_length=16, chat_template=chat
    )


_FAMILIES = {"qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl, "gemma3": _gemma3, "internvl": _internvl}
