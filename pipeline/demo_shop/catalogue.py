"""What is in the catalogue: every attribute of every item, those the title tells and those only the picture shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pipeline.demo_shop.motifs import MOTIFS
from pipeline.demo_shop.pen import Colour
from pipeline.demo_shop.products import PRODUCTS

Stream = Literal["shop", "item", "picture", "shopper", "decoys"]

COLOURS: dict[str, Colour] = {
    "white": (242, 240, 234),
    "cream": (234, 222, 196),
    "sand": (206, 182, 146),
    "light grey": (178, 180, 184),
    "charcoal": (68, 70, 76),
    "navy": (40, 54, 96),
    "sky blue": (140, 182, 214),
    "sage": (150, 170, 140),
    "bottle green": (44, 84, 66),
    "ochre": (206, 154, 56),
    "terracotta": (188, 98, 68),
    "burgundy": (116, 38, 54),
    "blush": (228, 180, 174),
    "lavender": (176, 164, 206),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag")
BRANDS = ("Oddly & Sons", "Halden", "Plain Goods", "Mirabelle", "Nordhem", "Tuesday Club", "Kiln & Loom", "Vester")

NEW_SHARE = 0.05
MISSING_SHARE = 0.02

Picture = Literal["fine", "missing", "not an image", "cut short"]


@dataclass(frozen=True)
class Item:
    """One product. The motif and the scene are only in the picture; everything else is in the text too."""

    index: int
    item_id: str
    category: str
    colour: str
    material: str
    pattern: str
    brand: str
    title: str
    description: str
    motif: str
    scene: str
    is_new: bool
    """Comes into the shop only near the end of the log."""
    picture: Picture
    """What the shop has in place of the image file."""


def stream(seed: int, name: Stream, index: int = 0) -> np.random.Generator:
    """The random numbers of one thing alone, so that it comes out the same in any order and on any worker."""
    return np.random.default_rng([seed, get_args(Stream).index(name), index])


def _item(seed: int, index: int, is_new: bool, picture: Picture) -> Item:
    rng = stream(seed, "item", index)

    def choose(options: tuple[str, ...]) -> str:
        return options[int(rng.integers(len(options)))]

    category = choose(tuple(PRODUCTS))
    product = PRODUCTS[category]
    colour, material, brand = choose(tuple(COLOURS)), choose(product.materials), choose(BRANDS)
    motif, scene = choose(tuple(MOTIFS)), choose(product.scenes)
    pattern = str(rng.choice(PATTERNS, p=(0.52, 0.15, 0.12, 0.12, 0.09)))
    words = f"{material} {product.noun}" if pattern == "plain" else f"{pattern} {material} {product.noun}"
    return Item(
        index=index,
        item_id=f"p{index:05d}",
        category=category,
        colour=colour,
        material=material,
        pattern=pattern,
        brand=brand,
        title=f"{words[0].upper()}{words[1:]}, {colour}",
        description=f"{product.detail}. {material[0].upper()}{material[1:]}, by {brand}.",
        motif=motif,
        scene=scene,
        is_new=is_new,
        picture=picture,
    )


def make_catalogue(items: int, seed: int) -> list[Item]:
    """All items of the shop, in the order of their ids."""
    order = stream(seed, "shop").permutation(items)
    missing = max(1, round(items * MISSING_SHARE))
    faults: dict[int, Picture] = {int(i): "missing" for i in order[:missing]}
    faults[int(order[missing])] = "not an image"
    faults[int(order[missing + 1])] = "cut short"
    new = set(order[-max(1, round(items * NEW_SHARE)) :].tolist())
    return [_item(seed, i, i in new, faults.get(i, "fine")) for i in range(items)]
