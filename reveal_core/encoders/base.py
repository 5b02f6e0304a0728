"""What an encoder is, and what all encoders share.

Shape letters: B images or texts in a batch, N tokens that are cached, P patches, Q prompts, E width, H and W pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeGuard

from reveal_core.config import Config, runtime
from reveal_core.disk import digest_file
from reveal_core.errors import UserError
from reveal_core.images import Preprocess
from reveal_core.texts import MiniLm

if TYPE_CHECKING:
    import torch

    from reveal_core.text_tail import TextCut

    BlockTensors = Sequence[Mapping[str, torch.Tensor]]

#: How patches are kept: part of the fingerprint of images.
PatchDtype = Literal["float16", "int8"]
#: How vectors are kept: part of every other fingerprint.
STORED_DTYPE: PatchDtype = "float16"


class ImageFeatures(NamedTuple):
    """Float tensors on the encoder's device."""

    tokens_BNE: torch.Tensor  # noqa: N815
    """What enters the tail: prefix tokens, then patches. Without a tail, the patches that leave the tower (N = P)."""
    pooled_BE: torch.Tensor  # noqa: N815


class Encoder(Protocol):
    """A frozen image tower and a frozen text tower. Outputs depend on nothing but the input and the weights."""

    preprocess: Preprocess
    device: torch.device
    """Where the towers are."""
    grid: tuple[int, int]
    """Rows and columns of the patches: P = rows times columns, row by row from the top left."""
    patch_dim: int
    """Width of a token."""
    tail_blocks: int
    """Last blocks of the image tower that make up the tail; 0 = there is none."""
    num_prefix: int
    """Class and register tokens in front of the patches in what is cached; 0 without a tail: N = num_prefix + P."""
    tail: torch.nn.Module
    """``(tokens_BNE, prompts_BQE or None) -> patches_BPE``, float32, frozen, differentiable in the prompts. Without
    prompts the patches are those of the whole tower, to float tolerance; without a tail, the tokens as they are."""
    image_dim: int
    """Width of the pooled image vector."""
    text_dim: int
    """0 = this encoder has no text tower."""
    image_fingerprint: dict[str, Any]
    """All that image features depend on besides the pixels, as JSON: two encoders with the same one are one."""
    text_fingerprint: dict[str, Any]

    def encode_images(self, pixels_B3HW: torch.Tensor) -> ImageFeatures:
        """Features of preprocessed uint8 pixels, on any device and in any memory layout. Safe in several threads."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(B, text_dim) vectors of length 1."""
        ...

    def cut_texts(self, num_blocks: int | None) -> TextCut:
        """The text tower, cut before its last ``num_blocks`` blocks.

        Args:
            num_blocks: None = 1 where the tower can be cut, else 0.

        Raises:
            UserError: when it cannot be cut there.
        """
        ...

    def whole_towers(self, image: BlockTensors, text: BlockTensors) -> dict[str, dict[str, torch.Tensor]]:
        """Complete models, by the name of their file, with the given tensors in the last blocks of a tower.

        The tensors' names are those of the library that the model comes from, so that it can load them.

        Args:
            image: for each block of the tail all its tensors; empty = the image tower is as it was.
            text: for each block of the tail of :meth:`cut_texts`, likewise.
        """
        ...


class PromptedEncoder(Encoder, Protocol):
    """An encoder that reads a text prompt of the item before it sees the image: one image has many features."""

    prompt: str
    """Template of the prompts over an item's fields, as :mod:`reveal_core.extraction.prompts` fills it."""

    def encode_images(self, pixels_B3HW: torch.Tensor, prompts: Sequence[str] | None = None) -> ImageFeatures:
        """As for every encoder, each image under its prompt; an empty prompt, or none at all, is the image alone."""
        ...


def reads_prompts(encoder: Encoder) -> TypeGuard[PromptedEncoder]:
    """Whether image features depend on the item's text prompt."""
    return getattr(encoder, "prompt", None) is not None


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(Config):
    """What every encoder's configuration has."""

    batch_size: int = runtime(32)
    """Images or texts in one forward pass."""
    device: str = runtime("auto")
    """``cpu``, ``cuda``, ``cuda:1``, ...; ``auto`` = a GPU if there is one."""
    patches: PatchDtype = STORED_DTYPE
    """How patches are kept in the cache: int8 takes half the bytes; the numbers of a patch share a scale."""
    patch_components: int | None = None
    """So many numbers of each patch are kept in the cache, along the directions in which patches differ most (PCA,
    fitted to 256 images when the cache begins); what is read is as wide as before. null = all."""
    pool_patches: bool = False
    """Whether four neighbouring patches (2 x 2) are one: their mean. Such patches enter no tail
    (``extraction.tail_blocks`` and ``tuning.image_blocks`` 0, as null then is)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError("batch_size must be at least 1")
        if self.patch_components is not None and self.patch_components < 1:
            raise ValueError("patch_components must be at least 1, or null")

    def build(self, tail_blocks: int | None = 0) -> Encoder:
        """Load the weights, and cut the image tower before its last ``tail_blocks`` blocks.

        Args:
            tail_blocks: None = what suits the encoder: 1 for a plain ViT, 0 for any other tower and with pooling.

        Raises:
            UserError: when the weights are missing or do not fit, or the tower cannot be cut there.
        """
        encoder = self.load(0 if self.pool_patches and tail_blocks is None else tail_blocks)
        if self.pool_patches:
            from reveal_core.pooled import PooledEncoder

            encoder = PooledEncoder(encoder)
        encoder.image_fingerprint["dtype"] = self.patches
        if self.patch_components is not None:
            if self.patch_components > encoder.patch_dim:
                mend = f"use {encoder.patch_dim} at most, or null"
                raise UserError("a patch has fewer numbers", where="encoder.patch_components", mend=mend)
            encoder.image_fingerprint["components"] = self.patch_components
        return encoder

    def load(self, tail_blocks: int | None) -> Encoder:
        """:meth:`build`, whatever becomes of the patches."""
        raise NotImplementedError

    def weights_files(self) -> tuple[Path, ...]:
        """The local files whose bytes decide the result.

        Raises:
            UserError: when a package that ships them is not installed.
        """
        return ()


@contextlib.contextmanager
def inference(device: torch.device) -> Iterator[None]:
    """No gradients; float32 on a CPU, float16 arithmetic where the GPU has it (as the features are kept so)."""
    import torch

    with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        yield


def as_patches(map_BEHW: torch.Tensor) -> torch.Tensor:
    """A feature map as patches, row by row: (B, E, H, W) -> (B, H * W, E)."""
    return map_BEHW.flatten(2).transpose(1, 2)


def no_text_tail() -> UserError:
    """What to say when blocks are asked for of a text tower that cannot be cut, or is not there."""
    return UserError("this encoder has no text tower that can be cut", where="tuning.text_blocks", mend="use 0")


def existing_file(path: str, where: str) -> Path:
    """``path`` as a :class:`Path`.

    Raises:
        UserError: when it is no file.
    """
    found = Path(path).expanduser()
    if found.is_dir():
        raise UserError(f"is a folder: {path}", where=where, mend="name the file in it")
    if not found.is_file():
        raise UserError(f"no such file: {path}", where=where, mend="check the path")
    return found


def read_state(path: Path, where: str) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` file or of a PyTorch checkpoint, by name. Executes nothing in the file.

    Raises:
        UserError: when the file is neither, is damaged, or holds more than tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A file that is no checkpoint makes the unpickler raise anything at all.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        mend = "give a .safetensors file or a PyTorch state dict"
        raise UserError(f"{path} cannot be read as weights: {reason[:200]}", where=where, mend=mend) from None
    for nested in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(nested), Mapping):
            content = content[nested]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"{path} holds no state dict", where=where, mend="save model.state_dict()")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def load_strictly(model: torch.nn.Module, state: Mapping[str, torch.Tensor], *, what: str, where: str) -> None:
    """Copy every tensor of ``state`` into ``model``, which must have exactly these.

    Raises:
        UserError: one line with the first difference.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wanted != given:
        missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
        wrong = [name for name in wanted if name in given and wanted[name] != given[name]]
        facts = [f"{len(missing)} missing (first: {missing[0]})"] if missing else []
        facts += [f"{len(unknown)} unknown (first: {unknown[0]})"] if unknown else []
        facts += [f"{wrong[0]} has shape {given[wrong[0]]}, not {wanted[wrong[0]]}"] if wrong else []
        mend = "the weights belong to another architecture"
        raise UserError(f"does not fit {what}: {', '.join(facts)}", where=where, mend=mend)
    model.load_state_dict(dict(state))


class TimmEncoder:
    """A timm model as the image tower, MiniLM or nothing as the text tower.

    Patches are what the model's pooling reads: the tokens after the last norm without class and register tokens, or
    the last feature map; the pooled vector is what its classifier would read. Only a plain ViT can be cut.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Preprocess,
        device: torch.device,
        *,
        name: str,
        weights: Path,
        texts: MiniLm | None,
        tail_blocks: int | None = 0,
    ) -> None:
        import torch

        from reveal_core.tail import Cut, timm_trunk

        self._model = model.eval().to(device, memory_format=torch.channels_last)
        self.device, self._texts, self.preprocess = device, texts, preprocess
        self._cut = Cut.of(timm_trunk(self._model), tail_blocks, what=name)
        self.tail_blocks, self.num_prefix = self._cut.num_blocks, self._cut.tail.num_prefix
        self.tail: torch.nn.Module = self._cut.tail
        self.image_fingerprint: dict[str, Any] = {
            "model": name,
            "weights": digest_file(weights),
            "layer": self._cut.layer,
            "preprocess": asdict(preprocess),
        }
        self.text_fingerprint: dict[str, Any] = {}
        self.text_dim = 0
        if texts:
            self.text_dim = texts.dim
            text_weights = digest_file(texts.weights_file())
            self.text_fingerprint = {"model": "all-MiniLM-L6-v2", "weights": text_weights, "dtype": STORED_DTYPE}
        probe = self.encode_images(torch.zeros(1, 3, *preprocess.size, dtype=torch.uint8))
        _, num_tokens, self.patch_dim = probe.tokens_BNE.shape
        self.image_dim = probe.pooled_BE.shape[1]
        self.grid = self._grid(num_tokens - self.num_prefix)

    def encode_images(self, pixels_B3HW: torch.Tensor) -> ImageFeatures:
        with inference(self.device), self._cut.entering() as tokens:
            features = self._model.forward_features(self.preprocess.normalise(pixels_B3HW.to(self.device)))
            pooled_BE = self._model.forward_head(features, pre_logits=True)
        if tokens:
            return ImageFeatures(tokens[0], pooled_BE)
        if features.ndim == 3:
            return ImageFeatures(features[:, getattr(self._model, "num_prefix_tokens", 0) :], pooled_BE)
        if getattr(self._model, "output_fmt", "NCHW") == "NHWC":
            return ImageFeatures(features.flatten(1, 2), pooled_BE)
        return ImageFeatures(as_patches(features), pooled_BE)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        if self._texts is None:
            raise ValueError("this encoder has no text tower")
        return self._texts.encode(texts)

    def cut_texts(self, num_blocks: int | None) -> TextCut:
        from reveal_core.text_tail import TextCut

        if self._texts is None and num_blocks:
            raise no_text_tail()
        return (
            TextCut.none()
            if self._texts is None or num_blocks == 0
            else self._texts.cut(num_blocks, self.text_fingerprint)
        )

    def whole_towers(self, image: BlockTensors, text: BlockTensors) -> dict[str, dict[str, torch.Tensor]]:
        from reveal_core.tail import with_blocks

        towers = {}
        if image:
            towers["image_tower"] = with_blocks(self._model, self._cut.blocks, image)
        if text and self._texts is not None:
            tower = self._texts.tower
            towers["text_tower"] = with_blocks(tower, tower.encoder.layer[-len(text) :], text)
        return towers

    def _grid(self, num_patches: int) -> tuple[int, int]:
        rows, columns = getattr(getattr(self._model, "patch_embed", None), "grid_size", None) or (0, 0)
        if rows * columns == num_patches:
            return int(rows), int(columns)
        # Later stages of a pyramid keep the shape of the image.
        height, width = self.preprocess.size
        rows = round((num_patches * height / width) ** 0.5)
        return rows, num_patches // rows
