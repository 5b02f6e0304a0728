"""The stage graph of a manifest, in the order in which stages run."""

from dataclasses import replace
from pathlib import Path

from pipeline.executors.dask import Dask
from pipeline.manifest import Manifest
from pipeline.ready_features import Features
from pipeline.sources import ImageSourceConfig
from pipeline.sources.folder import Folder
from pipeline.stage import Stage
from pipeline.stages.encode import Encode
from pipeline.stages.evaluate import Evaluate
from pipeline.stages.images import Images
from pipeline.stages.ingest import Ingest
from pipeline.stages.ready import Ready
from pipeline.stages.report import Report
from pipeline.stages.split import Split
from pipeline.stages.train import Train
from pipeline.stages.tune import Tune
from reveal_core.balance.avl import AvlConfig
from reveal_core.balance.crtr import CrtrConfig
from reveal_core.balance.wpcl import WpclConfig
from reveal_core.encoders import EncoderConfig
from reveal_core.errors import UserError
from reveal_core.extraction.config import ExtractionConfig
from reveal_core.tuning.config import BalanceConfig, TuningConfig


def plan(manifest: Manifest) -> list[Stage]:
    """The stages with their slices of the manifest.

    Raises:
        UserError: when the model wants images and the manifest does not say where they are, or learned extraction or
            tuning is to look at several images of an item.
    """
    data, workers = manifest.data, manifest.executor.num_workers
    extraction, tuning = _extraction(manifest), _tuning(manifest)
    source, base = _image_source(manifest), image_folder(manifest)
    folder = None if base is None else str(base)
    evaluate = Evaluate(
        evaluate=manifest.evaluate,
        model=manifest.model,
        tuning=tuning,
        ready_features=isinstance(manifest.encoder, Features),
        device=manifest.train.device,
    )
    return [
        Ingest(adapter=data.adapter, cleaning=data.cleaning, root=data.root),
        Images(
            source=source,
            limits=data.images.limits,
            use=data.images.use,
            folder=folder,
            executor=manifest.executor,
        ),
        _encode(manifest, extraction, tuning, folder),
        Split(split=manifest.split),
        *([_tune(manifest, tuning, folder)] if tuning.tunes else []),
        Train(
            seed=manifest.seed,
            model=manifest.model,
            train=manifest.train,
            avl=manifest.avl if manifest.avl.enabled and "image" in manifest.model.modalities else AvlConfig(),
            extraction=extraction,
            encoder=_tower(manifest) if extraction.learns else None,
            features="tune" if tuning.tunes else "encode",
            folder=folder,
            workers=workers,
        ),
        evaluate,
        Report(title=manifest.name, made_of=(*evaluate.inputs, evaluate.name), folder=folder),
    ]


def _encode(manifest: Manifest, extraction: ExtractionConfig, tuning: TuningConfig, folder: str | None) -> Stage:
    if isinstance(manifest.encoder, Features):
        return Ready(features=manifest.encoder, root=manifest.data.root)
    executor = manifest.executor
    tuned = tuning.image_blocks if tuning.tunes and "image" in manifest.model.modalities else 0
    tail_blocks = extraction.tail_blocks if extraction.learns else tuned
    return Encode(
        encoder=manifest.encoder,
        tail_blocks=tail_blocks,
        cut_by="extraction.tail_blocks" if extraction.learns else "tuning.image_blocks",
        folder=folder,
        workers=executor.num_workers,
        cluster=executor if isinstance(executor, Dask) else None,
    )


def _tune(manifest: Manifest, tuning: TuningConfig, folder: str | None) -> Tune:
    return Tune(
        seed=manifest.seed,
        tuning=tuning,
        balance=_balance(manifest),
        modalities=manifest.model.content,
        encoder=_tower(manifest),
        folder=folder,
        workers=manifest.executor.num_workers,
        device=manifest.train.device,
    )


def _tower(manifest: Manifest) -> EncoderConfig:
    """What learned extraction and tuning look into."""
    if isinstance(manifest.encoder, Features):
        mend = "use an encoder, or extraction.mode: static and tuning.mode: none"
        raise UserError("ready-made features have no tower to look into", where="encoder.kind", mend=mend)
    return manifest.encoder


def _extraction(manifest: Manifest) -> ExtractionConfig:
    """The section without what has no effect, so that changing that reruns nothing."""
    if "image" not in manifest.model.modalities:
        return ExtractionConfig()
    if not manifest.extraction.learns:
        return ExtractionConfig(control=manifest.extraction.control)
    if manifest.data.images.use == "all":
        mend = "use first or best, or extraction.mode: static"
        raise UserError("learned extraction looks at one image of an item", where="data.images.use", mend=mend)
    if not manifest.extraction.reads_text:
        unread = ("template", "critic", "rewrite_share")
        return replace(manifest.extraction, **{name: getattr(ExtractionConfig(), name) for name in unread})
    return manifest.extraction


def _tuning(manifest: Manifest) -> TuningConfig:
    """Likewise."""
    tuning, extraction = manifest.tuning, manifest.extraction
    if not tuning.tunes:
        return TuningConfig()
    if not manifest.model.uses_content:
        mend = "add text or image to model.modalities, or use tuning.mode: none"
        raise UserError("there is nothing to tune but text and image", where="tuning.mode", mend=mend)
    if "image" in manifest.model.modalities and (extraction.learns or extraction.control != "none"):
        what = "a tuned image tower goes neither with learned extraction nor with a control"
        mend = "use extraction.mode: static and extraction.control: none, or tuning.mode: none"
        raise UserError(what, where="tuning.mode", mend=mend)
    if "image" in manifest.model.modalities and manifest.data.images.use == "all":
        mend = "use first or best, or tuning.mode: none"
        raise UserError("a tuned image tower looks at one image of an item", where="data.images.use", mend=mend)
    settings = {"prompts": ("num_prompts",), "lora": ("lora_rank", "lora_alpha")}
    unread = [name for mode, names in settings.items() if mode != tuning.mode for name in names]
    return replace(tuning, **{name: getattr(TuningConfig(), name) for name in unread})


def _balance(manifest: Manifest) -> BalanceConfig:
    """Likewise: what is off has no settings, and with one modality there is nothing to balance."""
    wpcl, crtr = manifest.balance.wpcl, manifest.balance.crtr
    one = len(manifest.model.content) < 2
    return BalanceConfig(
        wpcl=WpclConfig(enabled=False) if one or not wpcl.enabled else wpcl,
        crtr=CrtrConfig(enabled=False) if one or not crtr.enabled else crtr,
    )


def image_folder(manifest: Manifest) -> Path | None:
    """What the paths of the images are relative to; None = the downloaded files in the work folder."""
    source = _image_source(manifest)
    return None if source is None else source.base_folder(Path(manifest.data.root))


def _image_source(manifest: Manifest) -> ImageSourceConfig | None:
    images, adapter = manifest.data.images, manifest.data.adapter
    if images.source is not None:
        return images.source
    if isinstance(manifest.encoder, Features) and images.folder is None:
        return None
    folder = images.folder if images.folder is not None else adapter.images_root
    if folder is None:
        if "image" in manifest.model.modalities:
            mend = "name the folder, or leave image out of model.modalities"
            raise UserError("the model wants images", where="data.images.folder", mend=mend)
        return None
    if (
        images.folder is None
        and "image" not in manifest.model.modalities
        and not (Path(manifest.data.root) / folder).is_dir()
    ):
        return None  # a format may come without its images, where none are wanted
    return Folder(folder=folder, pattern=images.pattern or adapter.image_pattern)
