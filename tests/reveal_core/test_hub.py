"""Loading a vision-language model: whatever is wrong with it is one clear line, and nothing in it is run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from reveal_core.errors import UserError
from reveal_core.hub import digest, download, load, local_folder, model_files

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="the hf extra is not installed")
CPU = torch.device("cpu")


def line(raised: pytest.ExceptionInfo[UserError]) -> str:
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_a_model_comes_in_full_precision_without_its_head(tiny_vlm: Callable[[str], Path]) -> None:
    model, processor = load(tiny_vlm("qwen2_5_vl"), CPU)
    assert model.dtype == torch.float32
    assert not model.training
    assert not [name for name, _ in model.named_parameters() if "lm_head" in name]
    assert processor.image_token == "<|image_pad|>"
    stored = load_file(tiny_vlm("qwen2_5_vl") / "model.safetensors")
    (expected,) = [tensor for name, tensor in stored.items() if name.endswith("layers.1.mlp.up_proj.weight")]
    assert torch.equal(model.get_parameter("language_model.layers.1.mlp.up_proj.weight"), expected)


def test_names_and_folders(tiny_vlm: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_vlm("gemma3")
    assert local_folder(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert local_folder("gemma3") == Path("gemma3")
    assert local_folder("google/gemma-3-4b-it") is local_folder("gpt2") is None
    for nowhere in ("./gemma4", "/models/gemma4", "a/b/c", "~/gemma4", "models/", "C:\\models"):
        with pytest.raises(UserError, match="no such folder") as raised:
            local_folder(nowhere)
        assert nowhere in line(raised)


def test_the_digest_is_of_what_decides(changed_vlm: Callable[..., Path]) -> None:
    one, same = (changed_vlm("gemma3", name, {"README.md": name, "notes.pdf": name}) for name in ("one", "same"))
    other = changed_vlm("gemma3", "other", {"chat_template.jinja": "{{ messages }}"})
    assert {path.suffix for path in model_files(one)} == {".safetensors", ".json", ".jinja"}
    assert digest(one) == digest(same) != digest(other)


def broken(folder: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """What may be wrong with a folder, and what is said of it."""
    settings, weights = json.loads((folder / "config.json").read_text()), folder / "model.safetensors"
    wider = settings | {"text_config": settings["text_config"] | {"hidden_size": 64}}
    some = {name: tensor for name, tensor in load_file(weights).items() if "layers.1.mlp" not in name}
    silent = dict.fromkeys(("processor_config.json", "tokenizer.json", "tokenizer_config.json"))
    return {
        "no configuration": ({"config.json": None}, "cannot be loaded"),
        "no JSON": ({"config.json": "{"}, "cannot be loaded"),
        "text only": ({"config.json": json.dumps(settings["text_config"])}, "gemma3_text is no vision-language model"),
        "another shape": ({"config.json": json.dumps(wider)}, "cannot be loaded"),
        "no weights": ({"model.safetensors": None}, "model.safetensors"),
        "weights cut off": ({"model.safetensors": weights.read_bytes()[:5000]}, "cannot be loaded"),
        "some weights": (
            {"model.safetensors": save(some, {"format": "pt"})},
            "weights are missing (first: language_model.layers.1.mlp.",
        ),
        "no processor": (silent, "cannot be loaded"),
    }


def test_a_broken_folder_is_one_clear_line(tiny_vlm: Callable[[str], Path], changed_vlm: Callable[..., Path]) -> None:
    for name, (files, words) in broken(tiny_vlm("gemma3")).items():
        with pytest.raises(UserError, match=r"^encoder\.model: ") as raised:
            load(changed_vlm("gemma3", name, files), CPU)
        assert words in line(raised)
        assert "give a vision-language model of transformers" in line(raised)


def test_a_model_of_another_build_is_refused(tiny_vlm: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda *_, **__: object())
    with pytest.raises(UserError, match="gemma3 is built in another way: no image_processor") as raised:
        load(tiny_vlm("gemma3"), CPU)
    line(raised)


def test_code_that_comes_with_a_model_is_never_run(
    tiny_vlm: Callable[[str], Path], changed_vlm: Callable[..., Path], tmp_path: Path
) -> None:
    settings = json.loads((tiny_vlm("gemma3") / "config.json").read_text())
    own = settings | {"model_type": "own", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n"
    folder = changed_vlm("gemma3", "copy", {"config.json": json.dumps(own), "evil.py": code})
    with pytest.raises(UserError, match="cannot be loaded") as raised:
        load(folder, CPU)
    line(raised)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("reason", ["[Errno -2] Name or service not known\nmore", "401 Client Error"])
def test_a_model_that_cannot_be_downloaded(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **_: Any) -> str:
        assert name == "google/gemma-3-4b-it"
        raise OSError(reason)

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(UserError) as raised:
        download("google/gemma-3-4b-it")
    assert f"cannot be downloaded: {reason.splitlines()[0]} (check the name" in line(raised)


def test_a_download_leaves_out_what_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[str] = []

    def fetched(name: str, allow_patterns: list[str]) -> str:
        wanted.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert download("google/gemma-3-4b-it") == tmp_path
    assert "*.safetensors" in wanted
    assert not [pattern for pattern in wanted if Path("pytorch_model.bin").match(pattern)]


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"transformers is not installed.*pip install 'reveal-recsys\[hf\]'"):
        local_folder("gpt2")


@pytest.mark.parametrize("package", ["bitsandbytes", "accelerate"])
def test_quantised_weights_need_a_gpu_and_two_packages(
    package: str, tiny_vlm: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"encoder\.quantization: quantised weights need a GPU \(use none\)"):
        load(tiny_vlm("gemma3"), CPU, "int8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    with pytest.raises(UserError, match=rf"{package} is not installed.*reveal-recsys\[quantization\]"):
        load(tiny_vlm("gemma3"), torch.device("cuda"), "int8")
