"""What is told of a proposal, and when none can be made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """Why something stands in a proposed manifest."""

    path: str
    """Of the key it belongs to: ``data.adapter.interactions.user``."""
    text: str
    guessed: bool = False
    """Whether it may well be otherwise: then people are asked to look."""

    @property
    def line(self) -> str:
        return f"guessed: {self.text}" if self.guessed else self.text
