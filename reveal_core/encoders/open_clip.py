"""Any architecture of the library open_clip, with one of its pretrained tags or a local checkpoint."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reveal_core.devices import resolve_device
from reveal_core.disk import digest_file
from reveal_core.encoders.base import (
    STORED_DTYPE,
    Encoder,
    EncoderSettings,
    ImageFeatures,
    as_patches,
    existing_file,
    inference,
    no_text_tail,
)
from reveal_core.errors import UserError, first_reason
from reveal_core.images import Preprocess

if TYPE_CHECKING:
    import torch

    from reveal_core.encoders.base import BlockTensors
    from reveal_core.tail import Trunk
    from reveal_core.text_tail import TextCut


@dataclass(frozen=True, kw_only=True)
class OpenClip(EncoderSettings):
    """A CLIP-like model: patches of its image tower, and image and text vectors in one space."""

    kind: Literal["open_clip"] = "open_clip"
    model: str = "ViT-B-32"
    """open_clip's name of the architecture."""
    pretrained: str = "laion2b_s34b_b79k"
    """A pretrained tag of open_clip (downloaded once), or the path of a local checkpoint."""
    mean: tuple[float, float, float] | None = None
    """Per channel of pixels in 0..1; null = as the pretrained weights, or the architecture, ask for."""
    std: tuple[float, float, float] | None = None
    """Per channel of pixels in 0..1; null = likewise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be positive")

    def load(self, tail_blocks: int | None) -> Encoder:
        import open_clip

        _check_architecture(self.model)
        device = resolve_device(self.device, where="encoder.device")
        tag: dict[str, Any] = {} if _is_path(self.pretrained) else _tag(self.model, self.pretrained)
        weights = _download(self.pretrained, tag) if tag else self.weights_files()[0]
        model = _create(self.model, weights, tag)
        known = {**open_clip.get_model_preprocess_cfg(model), **(tag or _common_to_tags(self.model))}
        preprocess = Preprocess(
            size=_pair(model.visual.image_size),
            resize_mode=known["resize_mode"],
            interpolation=known["interpolation"],
            mean=self.mean or known["mean"],
            std=self.std or known["std"],
            fill=(known["fill_color"],) * 3,
        )
        weights_sha256 = digest_file(weights)
        tokenizer = _tokenizer(self.model)
        known_by = (self.model, weights_sha256)
        return OpenClipEncoder(model, tokenizer, preprocess, device, known_by, tail_blocks)

    def weights_files(self) -> tuple[Path, ...]:
        """The local checkpoint; a tag names its weights by itself."""
        return (existing_file(self.pretrained, "encoder.pretrained"),) if _is_path(self.pretrained) else ()


def _is_path(pretrained: str) -> bool:
    """Tags have neither a suffix nor a folder."""
    return bool(Path(pretrained).suffix) or "/" in pretrained or os.sep in pretrained


def _check_architecture(name: str) -> None:
    import open_clip

    if name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), n=1)
        mend = f"did you mean {near[0]}?" if near else "see open_clip.list_models()"
        raise UserError(f"open_clip has no architecture {name!r}", where="encoder.model", mend=mend)


def _tag(model: str, name: str) -> dict[str, Any]:
    import open_clip

    tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, name)
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        what = f"{model} has no pretrained tag {name!r}"
        raise UserError(what, where="encoder.pretrained", mend=f"its tags: {tags}; or give the path of a file")
    return tag


def _common_to_tags(model: str) -> dict[str, Any]:
    """Preprocessing on which all pretrained tags of an architecture agree: a local checkpoint says nothing of it."""
    import open_clip

    keys = ("mean", "std", "interpolation", "resize_mode")
    tags = [open_clip.get_pretrained_cfg(model, name) for name in open_clip.list_pretrained_tags_by_model(model)]
    return {
        key: tags[0][key]
        for key in keys
        if tags and key in tags[0] and all(tag.get(key) == tags[0][key] for tag in tags)
    }


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _download(name: str, tag: dict[str, Any]) -> Path:
    from open_clip.pretrained import download_pretrained

    # The hub's library also logs each failed attempt; the error below says all of it.
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        return Path(download_pretrained(tag))
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        mend = "connect to the network, or set encoder.pretrained to the path of a local checkpoint"
        what = f"the weights {name!r} cannot be downloaded: {reason[:160]}"
        raise UserError(what, where="encoder.pretrained", mend=mend) from None
    finally:
        log.setLevel(level)


def _create(name: str, weights: Path, tag: dict[str, Any]) -> Any:
    import open_clip

    try:
        return open_clip.create_model(
            name, pretrained=str(weights), force_quick_gelu=bool(tag.get("quick_gelu"))
        ).eval()
    # From the library's own loader: a wrong shape, a name too few or too many, a file that is no checkpoint, no network
    # for the configuration of a text tower; on a broken file its unpickler raises anything at all.
    except Exception as error:
        mend = "choose the encoder.model that the weights were trained for"
        what = f"{weights.name} does not fit {name}: {first_reason(error)}"
        raise UserError(what, where="encoder.pretrained", mend=mend) from None


def _tokenizer(name: str) -> Any:
    import open_clip

    try:
        return open_clip.get_tokenizer(name)
    except (OSError, ValueError, ImportError) as error:
        what = f"the tokenizer of {name} cannot be loaded: {first_reason(error)}"
        raise UserError(what, where="encoder.model", mend="connect to the network once") from None


def _trunk(visual: Any, *, has_norm: bool) -> Trunk | None:
    """The trunk of an image tower that can be cut, its own ViT or a plain one of timm; None for any other."""
    import torch
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    from reveal_core.tail import Trunk, timm_trunk

    if isinstance(visual, TimmModel):
        return timm_trunk(visual.trunk)
    # A tower that wants its tokens before the batch would hand them over so.
    if type(visual) is not VisionTransformer or not visual.transformer.batch_first:
        return None
    norm = visual.ln_post if has_norm else torch.nn.Identity()
    return Trunk(list(visual.transformer.resblocks), norm, num_prefix=1)


class OpenClipEncoder:
    """Patches after the last block and its norm, without the class token; pooled and text vectors of length 1."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        preprocess: Preprocess,
        device: torch.device,
        weights: tuple[str, str],
        tail_blocks: int | None = 0,
    ) -> None:
        import torch

        from reveal_core.tail import Cut

        self._model = model.eval().to(device)
        self._tokenizer, self.device, self.preprocess = tokenizer, device, preprocess
        # Where an attention pool comes before the norm, the norm has the pool's width and is not one of patches.
        self._norm = getattr(model.visual, "attn_pool", None) is None
        name, sha256 = weights
        self._cut = Cut.of(_trunk(self._model.visual, has_norm=self._norm), tail_blocks, what=name)
        self.tail_blocks, self.num_prefix = self._cut.num_blocks, self._cut.tail.num_prefix
        self.tail: torch.nn.Module = self._cut.tail
        self.text_fingerprint: dict[str, Any] = {"model": name, "weights": sha256, "dtype": STORED_DTYPE}
        self.image_fingerprint: dict[str, Any] = {
            **self.text_fingerprint,
            "layer": self._cut.layer,
            "norm": self._norm,
            "preprocess": asdict(preprocess),
        }
        with inference(device):
            probe = self._intermediates(torch.zeros(1, 3, *preprocess.size, device=device))
        _, self.patch_dim, rows, columns = probe["image_intermediates"][-1].shape
        self.grid = rows, columns
        self.image_dim = self.text_dim = probe["image_features"].shape[1]

    def encode_images(self, pixels_B3HW: torch.Tensor) -> ImageFeatures:
        from torch.nn.functional import normalize

        with inference(self.device), self._cut.entering() as tokens:
            found = self._intermediates(self.preprocess.normalise(pixels_B3HW.to(self.device)))
            pooled_BE = normalize(found["image_features"], dim=1)
            return ImageFeatures(tokens[0] if tokens else as_patches(found["image_intermediates"][-1]), pooled_BE)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        with inference(self.device):
            vectors: torch.Tensor = self._model.encode_text(
                self._tokenizer(list(texts)).to(self.device), normalize=True
            )
        return vectors

    def cut_texts(self, num_blocks: int | None) -> TextCut:
        import torch

        from reveal_core.text_tail import TextCut, clip_text_trunk, pooled_place

        found = clip_text_trunk(self._model)
        if found is None and num_blocks:
            raise no_text_tail()
        if found is None or num_blocks == 0:
            return TextCut.none()
        tower, trunk = found

        def states(texts: Sequence[str]) -> torch.Tensor:
            ids_BN = self._tokenizer(list(texts)).to(self.device)
            with inference(self.device):
                self._model.encode_text(ids_BN)
            places_N = torch.arange(ids_BN.shape[1], device=self.device)
            return (places_N <= pooled_place(tower, ids_BN)[:, None]).int()

        length, width = tower.context_length, tower.transformer.width
        return TextCut.of(trunk, num_blocks, self.text_fingerprint, dim=width, room=lambda texts: length, states=states)

    def whole_towers(self, image: BlockTensors, text: BlockTensors) -> dict[str, dict[str, torch.Tensor]]:
        from reveal_core.tail import with_blocks
        from reveal_core.text_tail import clip_text_trunk

        if not (image or text):
            return {}
        found = clip_text_trunk(self._model)
        text_blocks = list(found[1].blocks[-len(text) :]) if found and text else []
        image_blocks = list(self._cut.blocks) if image else []
        return {"towers": with_blocks(self._model, [*image_blocks, *text_blocks], [*image, *text])}

    def _intermediates(self, images_B3HW: torch.Tensor) -> dict[str, Any]:
        found: dict[str, Any] = self._model.visual.forward_intermediates(
            images_B3HW, indices=1, normalize_intermediates=self._norm, output_fmt="NCHW"
        )
        return found
