"""What an ablation compares: named changes to a manifest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from reveal_core.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")
_CLOSING = {"[": "]", "{": "}", '"': '"', "'": "'"}


@dataclass(frozen=True)
class Variant:
    """A change to a manifest."""

    overrides: tuple[str, ...]
    """``a.b=value`` each, as for ``--set``."""
    doc: str


def _extraction(mode: str, *, avl: bool, modalities: str = "") -> tuple[str, ...]:
    chosen = (f"model.modalities=[{modalities}]",) if modalities else ()
    return (*chosen, "tuning.mode=none", f"extraction.mode={mode}", f"avl.enabled={str(avl).lower()}")


def _tuning(*, wpcl: bool, crtr: bool) -> tuple[str, ...]:
    balance = (f"balance.wpcl.enabled={str(wpcl).lower()}", f"balance.crtr.enabled={str(crtr).lower()}")
    return ("extraction.mode=static", "avl.enabled=false", "tuning.mode=tail", *balance)


#: A variant is added here. Those that name no modalities keep the manifest's.
VARIANTS: dict[str, Variant] = {
    "as-is": Variant((), "the manifest as it stands"),
    "id": Variant(_extraction("static", avl=False, modalities="id"), "ids only"),
    "text": Variant(_extraction("static", avl=False, modalities="text"), "text only"),
    "image": Variant(_extraction("static", avl=False, modalities="image"), "images only, mean of the patches"),
    "image-soft": Variant(_extraction("soft", avl=False, modalities="image"), "images only, learned extraction"),
    "id+text": Variant(_extraction("static", avl=False, modalities="id, text"), "no images"),
    "static": Variant(_extraction("static", avl=False), "mean of the patches"),
    "static+avl": Variant(_extraction("static", avl=True), "static with adaptive visual learning"),
    "soft": Variant(_extraction("soft", avl=False), "learned prompts guide the extraction"),
    "soft+avl": Variant(_extraction("soft", avl=True), "soft with adaptive visual learning"),
    "text-prompts": Variant(_extraction("text", avl=False), "natural-language prompts, rewritten from feedback"),
    "reveal": Variant(_extraction("both", avl=True), "both kinds of prompts and adaptive visual learning"),
    "frozen": Variant(_extraction("static", avl=False), "the towers as they are: static by another name"),
    "infonce": Variant(_tuning(wpcl=False, crtr=False), "last blocks tuned on user sequences by plain InfoNCE"),
    "infonce+wpcl": Variant(_tuning(wpcl=True, crtr=False), "with harder negatives where a modality lags"),
    "infonce+crtr": Variant(_tuning(wpcl=False, crtr=True), "with the same neighbours in both modalities"),
    "vlm2rec": Variant(_tuning(wpcl=True, crtr=True), "with both"),
    "no-avl": Variant(("avl.enabled=false",), "the manifest without adaptive visual learning"),
    "shuffled": Variant(("extraction.control=shuffled",), "control: the images of other items"),
    "constant": Variant(("extraction.control=constant",), "control: one image for all items"),
    "noise": Variant(("extraction.control=noise",), "control: random numbers for images"),
}


def split_outside(text: str, separator: str) -> list[str]:
    """Split at a character, but not inside brackets, braces or quotes.

    >>> split_outside("static,ids:model.modalities=[id,text]", ",")
    ['static', 'ids:model.modalities=[id,text]']
    """
    pieces, waiting = [""], ""
    for character in text:
        if waiting and character == waiting[-1]:
            waiting = waiting[:-1]
        elif character in _CLOSING and waiting[-1:] not in ("'", '"'):
            waiting += _CLOSING[character]
        if character == separator and not waiting:
            pieces.append("")
        else:
            pieces[-1] += character
    return [piece.strip() for piece in pieces]


def parse_variants(text: str) -> dict[str, tuple[str, ...]]:
    """The overrides of each variant of a list: names of :data:`VARIANTS`, or ``name:a.b=c;d.e=f``.

    Raises:
        UserError: a name that is not known, not allowed, or given twice.

    >>> parse_variants("no-avl,wide:model.hidden_dim=128;train.lr=0.01")
    {'no-avl': ('avl.enabled=false',), 'wide': ('model.hidden_dim=128', 'train.lr=0.01')}
    """
    variants: dict[str, tuple[str, ...]] = {}
    taken: dict[str, str] = {}
    for piece in split_outside(text, ","):
        name, overrides = _parse(piece)
        if safe_name(name) in taken:
            what = (
                f"{name!r} is given twice" if name in variants else f"{name!r} is too like {taken[safe_name(name)]!r}"
            )
            raise UserError(what, where="--variants", mend="name each variant once")
        taken[safe_name(name)] = name
        variants[name] = overrides
    return variants


def _parse(piece: str) -> tuple[str, tuple[str, ...]]:
    name, colon, settings = piece.partition(":")
    if not colon:
        if name not in VARIANTS:
            raise UserError(f"no variant {name!r}", where="--variants", mend=nearest(name, VARIANTS))
        return name, VARIANTS[name].overrides
    if not _NAME.fullmatch(name):
        mend = "at most 40 letters, digits and . _ + -"
        raise UserError(f"{name!r} cannot name a variant", where="--variants", mend=mend)
    if name in VARIANTS:
        raise UserError(f"{name!r} has a meaning already", where="--variants", mend="choose another name")
    overrides = tuple(split_outside(settings, ";"))
    for override in overrides:
        if "=" not in override:
            raise UserError(f"{override!r} is not of the form a.b=value", where=f"--variants {name}")
    return name, overrides


def nearest(name: str, known: Sequence[str] | dict[str, Variant]) -> str:
    """What to tell somebody who gave a name that is not known."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"


def safe_name(name: str) -> str:
    """The variant's name with the characters that a manifest's name may have."""
    return name.replace("+", "-")
