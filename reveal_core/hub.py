"""Loading a vision-language model of the library transformers, from a folder or from the hub. Runs no code in it."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reveal_core.disk import digest_file
from reveal_core.errors import UserError, first_reason
from reveal_core.texts import missing_extra, quiet_transformers

if TYPE_CHECKING:
    import torch

#: Bits of a weight, by bitsandbytes.
Quantization = Literal["none", "int8", "int4"]

#: What of a model's folder decides its results: weights, configuration, tokenizer, chat template.
_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
#: ``name`` or ``owner/name``: anything else is meant as a folder.
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


def local_folder(model: str) -> Path | None:
    """The folder that ``model`` names, None if it is a name on the hub.

    Raises:
        UserError: when it is neither, or transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise missing_extra("transformers", "hf")
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(model):
        raise UserError(f"no such folder: {model}", where="encoder.model", mend="check the path")
    return None


def model_files(folder: Path) -> tuple[Path, ...]:
    """Those that decide what the model does."""
    return tuple(sorted(path for pattern in _FILES for path in folder.glob(pattern)))


def digest(folder: Path) -> str:
    """sha256 over names and contents of :func:`model_files`, wherever the folder is."""
    lines = [f"{digest_file(path)} {path.name}\n" for path in model_files(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def download(name: str) -> Path:
    """The folder of a model on the hub, downloaded unless it already was.

    Raises:
        UserError: when there is no network, no such name, or no right to it.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:  # Each of the reasons is an error of another library.
        mend = "check the name and the network, or set encoder.model to a local folder"
        what = f"the model {name!r} cannot be downloaded: {first_reason(error)}"
        raise UserError(what, where="encoder.model", mend=mend) from None


def load(folder: Path, device: torch.device, quantization: Quantization = "none") -> tuple[Any, Any]:
    """The model without its head and its processor: float32 on a CPU, bfloat16 (else float16) on a GPU.

    Raises:
        UserError: when the folder holds no vision-language model, or not all of one; when the weights cannot be
            quantised here.
    """
    from transformers import AutoModel, AutoProcessor

    options = _arithmetic(device, quantization)
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_transformers():
            config = _vision_language_config(folder, safe)
            processor = AutoProcessor.from_pretrained(folder, **safe)  # type: ignore[no-untyped-call]
            model, found = AutoModel.from_pretrained(
                folder, config=config, use_safetensors=True, output_loading_info=True, **safe, **options
            )
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"{len(missing)} weights are missing (first: {missing[0]})")
        _check_parts(model, processor)
    except Exception as error:  # A broken file makes the library raise anything at all.
        mend = "give a vision-language model of transformers with its processor, its weights in safetensors"
        what = f"{folder.name} cannot be loaded: {first_reason(error)}"
        raise UserError(what, where="encoder.model", mend=mend) from None
    return (model if quantization != "none" else model.to(device)).eval(), processor


def _arithmetic(device: torch.device, quantization: Quantization) -> dict[str, Any]:
    """Options of ``from_pretrained``."""
    import torch

    if device.type != "cuda":
        if quantization != "none":
            raise UserError("quantised weights need a GPU", where="encoder.quantization", mend="use none")
        return {"dtype": torch.float32}
    half = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if quantization == "none":
        return {"dtype": half}
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "quantization")
    from transformers import BitsAndBytesConfig

    bits = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_8bit=quantization == "int8",
        load_in_4bit=quantization == "int4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=half,
    )
    return {"dtype": half, "quantization_config": bits, "device_map": {"": str(device)}}


def _vision_language_config(folder: Path, safe: dict[str, bool]) -> Any:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    config = AutoConfig.from_pretrained(folder, **safe)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(f"{config.model_type} is no vision-language model")
    return config


def _check_parts(model: Any, processor: Any) -> None:
    """Refuse a model that is put together in another way: encoder and decoder in one, a processor of its own kind."""
    needed = (
        (processor, ("image_processor", "tokenizer", "image_token")),
        (getattr(processor, "image_processor", None), ("image_mean", "image_std")),
        (model.config, ("vision_config", "image_token_id")),
        (model.get_decoder(), ("layers",)),
    )
    for part, names in needed:
        for name in names:
            if getattr(part, name, None) is None:
                raise ValueError(f"{model.config.model_type} is built in another way: no {name}")
