"""Any vision-language model of the library transformers: what its language model sees in an image after a prompt.

The prompt stands before the image. A token of a causal decoder sees only what stands before it, so a prompt behind the
image cannot change the states of the image's tokens, whatever it says (the order in the code published with
REVEAL, https://arxiv.org/abs/2606.09082). That these states move when the prompt moves is held by a test.

Shape letters: B images or texts in a batch, L tokens of the longest, N of them an image's, P patches, E width of the
language model, H and W pixels or tokens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reveal_core.devices import resolve_device
from reveal_core.encoders.base import (
    STORED_DTYPE,
    Encoder,
    EncoderSettings,
    ImageFeatures,
    as_patches,
    no_text_tail,
)
from reveal_core.errors import UserError, first_reason
from reveal_core.extraction.prompts import check_template
from reveal_core.hub import Quantization, digest, download, load, local_folder, model_files
from reveal_core.images import Preprocess

if TYPE_CHECKING:
    import torch

    from reveal_core.encoders.base import BlockTensors
    from reveal_core.text_tail import TextCut

#: Pixels of a side where a model takes images of any size: 16 x 16 patches of Qwen2.5-VL, 14 x 14 of Qwen3-VL.
_ANY_SIZE = 448
#: Tokens of a text; what is longer is cut.
_MAX_TOKENS = 512
#: What makes image processors cut an image into several, by the name that each of them has for it.
_TILINGS = ("crop_to_patches", "do_pan_and_scan", "do_image_splitting")


@dataclass(frozen=True, kw_only=True)
class HfVlm(EncoderSettings):
    """Patches are the states of the image's tokens in the language model, text vectors its mean state over a text."""

    kind: Literal["hf_vlm"] = "hf_vlm"
    model: str
    """A folder with the model and its processor, or its name on the hub (downloaded once)."""
    prompt: str | None = None
    """What the model reads before each image, a template over the item's fields: ``{category} by {brand}: {title}``;
    null = nothing. With it, what is called the image of an item also says what the prompt says."""
    image_size: int | None = None
    """Height and width in pixels that every image is squashed to; null = the model's own, 448 if it takes any."""
    layer: int | None = None
    """Layers of the language model that are run; the others are dropped, for texts as well. Its last norm follows
    wherever it ends. null = all."""
    grid: int | None = None
    """Rows and columns of the patches, each the mean of the image tokens in its part of the image: 1 = one vector for
    the image. null = each token is a patch (1 MB an image in the cache with Qwen2.5-VL-3B)."""
    quantization: Quantization = "none"
    """Weights of 8 or 4 bits (bitsandbytes; on a GPU only)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_size", "layer", "grid"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or null")
        if self.pool_patches:
            raise ValueError("pool_patches is not for hf_vlm: grid says how many patches it has")
        if self.prompt is not None:
            check_template(self.prompt)

    def load(self, tail_blocks: int | None) -> Encoder:
        local = local_folder(self.model)
        device = resolve_device(self.device, where="encoder.device")
        folder = local or download(self.model)
        model, processor = load(folder, device, self.quantization)
        return HfVlmEncoder(self, model, processor, device, digest(folder), tail_blocks)

    def weights_files(self) -> tuple[Path, ...]:
        """The files of a local folder; a name on the hub stands for its weights by itself."""
        local = local_folder(self.model)
        return () if local is None else model_files(local)


class HfVlmEncoder:
    """States after the last layer that is run and the last norm; text vectors of length 1. It cannot be cut."""

    def __init__(
        self, config: HfVlm, model: Any, processor: Any, device: torch.device, weights: str, tail_blocks: int | None
    ) -> None:
        from reveal_core.tail import Cut

        self._model, self._processor, self.device = model, processor, device
        self._batch_size, self.prompt = config.batch_size, config.prompt
        name: str = model.config.model_type
        cut = Cut.of(None, tail_blocks, what=name)
        self.tail_blocks, self.num_prefix = cut.num_blocks, cut.tail.num_prefix
        self.tail: torch.nn.Module = cut.tail
        self._decoder = model.get_decoder()
        num_layers = _keep_layers(self._decoder, config.layer)
        self.preprocess = _preprocess(processor.image_processor, model.config, config.image_size)
        self._image_token = str(processor.image_token)
        self._more_than_words = (self._image_token, *processor.tokenizer.all_special_tokens)
        self._chats = _prompt_comes_first(processor, self._image_token)
        #: A tokenizer keeps the padding of the call under way in itself: one call at a time.
        self._one_call = threading.Lock()
        self.text_fingerprint: dict[str, Any] = {
            "model": name,
            "weights": weights,
            "layers": num_layers,
            "quantization": config.quantization,
            "dtype": STORED_DTYPE,
        }
        own = {"grid": config.grid, "preprocess": asdict(self.preprocess)}
        self.image_fingerprint = self.text_fingerprint | own
        side, self.patch_dim = self._probe()
        if config.grid is not None and config.grid > side:
            what = f"{config.grid} rows of patches, but an image has {side} rows of tokens"
            raise UserError(what, where="encoder.grid", mend=f"use {side} at most")
        self.grid = (config.grid or side,) * 2
        self.image_dim = self.text_dim = self.patch_dim

    def encode_images(self, pixels_B3HW: torch.Tensor, prompts: Sequence[str] | None = None) -> ImageFeatures:
        from torch.nn.functional import adaptive_avg_pool2d

        states_BNE = self._image_states(pixels_B3HW, [""] * len(pixels_B3HW) if prompts is None else prompts)
        num_images, num_tokens, width = states_BNE.shape
        side = math.isqrt(num_tokens)
        map_BEHW = states_BNE.transpose(1, 2).reshape(num_images, width, side, side)
        return ImageFeatures(as_patches(adaptive_avg_pool2d(map_BEHW, self.grid)), states_BNE.mean(dim=1))

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        import torch

        size = self._batch_size
        return torch.cat([self._mean_states(texts[at : at + size]) for at in range(0, len(texts), size)])

    def cut_texts(self, num_blocks: int | None) -> TextCut:
        from reveal_core.text_tail import TextCut

        if num_blocks:
            raise no_text_tail()
        return TextCut.none()

    def whole_towers(self, image: BlockTensors, text: BlockTensors) -> dict[str, dict[str, torch.Tensor]]:
        """None: there is no block to be tuned."""
        return {}

    def _image_states(self, pixels_B3HW: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """(B, N, E) float32, row by row from the top left."""
        import torch

        with torch.inference_mode():
            with self._one_call:
                inputs = self._processor(
                    text=[self._ask(prompt) for prompt in prompts],
                    images=[[image] for image in pixels_B3HW.to(self.device)],
                    return_tensors="pt",
                    padding=True,
                    padding_side="right",
                    add_special_tokens=not self._chats,
                    do_resize=False,
                    **{name: False for name in _TILINGS if hasattr(self._processor.image_processor, name)},
                )
            inputs = inputs.to(self.device, self._model.dtype)
            states_BLE = self._model(**inputs, use_cache=False).last_hidden_state
            of_image_BL = inputs["input_ids"] == self._model.config.image_token_id
            width = states_BLE.shape[2]
            states_BNE: torch.Tensor = states_BLE[of_image_BL].view(len(prompts), -1, width).float()
        return states_BNE

    def _mean_states(self, texts: Sequence[str]) -> torch.Tensor:
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode():
            with self._one_call:
                inputs = self._processor.tokenizer(
                    [self._words(text) for text in texts],
                    return_tensors="pt",
                    padding=True,
                    padding_side="right",
                    truncation=True,
                    max_length=_MAX_TOKENS,
                )
            ids_BL, mask_BL = (inputs[name].to(self.device) for name in ("input_ids", "attention_mask"))
            states_BLE = self._decoder(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False).last_hidden_state
            sums_BE = states_BLE.float().masked_fill(mask_BL[..., None] == 0, 0).sum(dim=1)
            return normalize(sums_BE, dim=1)

    def _ask(self, prompt: str) -> str:
        """The prompt and then the place of the image, as in a chat of the model if its chats keep that order."""
        prompt = self._words(prompt)
        if self._chats:
            return _chat(self._processor, prompt)
        return f"{prompt}\n{self._image_token}" if prompt else self._image_token

    def _words(self, text: str) -> str:
        """``text`` without what the model would take for more than words, such as the place of another image."""
        for token in self._more_than_words:
            text = text.replace(token, " ")
        return text

    def _probe(self) -> tuple[int, int]:
        """Rows of image tokens and their width.

        Raises:
            UserError: when the model takes no such image, or makes of it what is no square of tokens.
        """
        import torch

        size = self.preprocess.size
        try:
            states_BNE = self._image_states(torch.zeros(1, 3, *size, dtype=torch.uint8), [""])
        except Exception as error:  # Each model has its own way of refusing a size.
            what = f"the model takes no image of {size[0]} x {size[1]} pixels: {first_reason(error)}"
            raise UserError(what, where="encoder.image_size", mend="choose another, or leave it out") from None
        num_tokens, width = states_BNE.shape[1:]
        side = math.isqrt(num_tokens)
        if side * side != num_tokens:
            what = f"the model makes {num_tokens} tokens of a square image, which are no square"
            raise UserError(what, where="encoder.image_size", mend="choose another size, or another model")
        return side, width


def _preprocess(image_processor: Any, config: Any, image_size: int | None) -> Preprocess:
    """Squashing to a square in our hands, so that the grid is known; the rest is the model's own image processor's."""
    from PIL.Image import Resampling

    own = getattr(config.vision_config, "image_size", None) or _ANY_SIZE
    size = image_size or (own if isinstance(own, int) else own[0])
    bilinear = image_processor.resample == Resampling.BILINEAR
    return Preprocess(
        size=(size, size),
        resize_mode="squash",
        interpolation="bilinear" if bilinear else "bicubic",
        mean=tuple(image_processor.image_mean),
        std=tuple(image_processor.image_std),
    )


def _keep_layers(decoder: Any, count: int | None) -> int:
    """Drop all layers of the decoder but the first ``count``; how many are left."""
    depth = len(decoder.layers)
    if count is not None:
        if count > depth:
            what = f"there are not {count} layers in the language model"
            raise UserError(what, where="encoder.layer", mend=f"use {depth} at most")
        decoder.layers = decoder.layers[:count]
    return count or depth


def _chat(processor: Any, prompt: str) -> str:
    said = [{"type": "text", "text": prompt}] if prompt else []
    text: str = processor.apply_chat_template([{"role": "user", "content": [*said, {"type": "image"}]}])
    return text


def _prompt_comes_first(processor: Any, image_token: str) -> bool:
    """Whether the model has chats, and they put the prompt before the image; some put every image first."""
    if not processor.chat_template:
        return False
    probe = "What is this?"
    text = _chat(processor, probe)
    return 0 <= text.find(probe) < text.find(image_token)
