"""The stage graph of a manifest, in the order in which stages run."""

from dataclasses import replace
from pathlib import Path

from pipeline.manifest import Manifest
from pipeline.stage import Stage
from pipeline.stages.encode import Encode
from pipeline.stages.evaluate import Evaluate
from pipeline.stages.images import Images
from pipeline.stages.ingest import Ingest
from pipeline.stages.split import Split
from pipeline.stages.train import Train
from reveal_core.balance.avl import AvlConfig
from reveal_core.errors import UserError
from reveal_core.extraction.config import ExtractionConfig


def plan(manifest: Manifest) -> list[Stage]:
    """The stages with their slices of the manifest.

    Raises:
        UserError: when the model wants images and the manifest does not say where they are.
    """
    data, workers = manifest.data, manifest.executor.num_workers
    extraction = _extraction(manifest)
    folder = _image_folder(manifest)
    return [
        Ingest(adapter=data.adapter, cleaning=data.cleaning, root=data.root),
        Images(
            images=data.images,
            pattern=data.images.pattern or data.adapter.image_pattern,
            folder=folder,
            workers=workers,
        ),
        Encode(
            encoder=manifest.encoder,
            tail_blocks=extraction.tail_blocks if extraction.learns else 0,
            folder=folder,
            workers=workers,
        ),
        Split(split=manifest.split),
        Train(
            seed=manifest.seed,
            model=manifest.model,
            train=manifest.train,
            avl=manifest.avl if manifest.avl.enabled and "image" in manifest.model.modalities else AvlConfig(),
            extraction=extraction,
            encoder=manifest.encoder if extraction.learns else None,
            folder=folder,
            workers=workers,
        ),
        Evaluate(evaluate=manifest.evaluate, model=manifest.model, device=manifest.train.device),
    ]


def _extraction(manifest: Manifest) -> ExtractionConfig:
    """The section without what has no effect, so that changing that reruns nothing."""
    if "image" not in manifest.model.modalities:
        return ExtractionConfig()
    if not manifest.extraction.learns:
        return ExtractionConfig(control=manifest.extraction.control)
    if not manifest.extraction.reads_text:
        unread = ("template", "critic", "rewrite_share")
        return replace(manifest.extraction, **{name: getattr(ExtractionConfig(), name) for name in unread})
    return manifest.extraction


def _image_folder(manifest: Manifest) -> str | None:
    data = manifest.data
    name = data.images.folder if data.images.folder is not None else data.adapter.images_root
    if name is None:
        if "image" in manifest.model.modalities:
            mend = "name the folder, or leave image out of model.modalities"
            raise UserError("the model wants images", where="data.images.folder", mend=mend)
        return None
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{name!r} leads out of data.root", where="data.images.folder", mend="link it into data.root")
    return str(Path(data.root) / name)
