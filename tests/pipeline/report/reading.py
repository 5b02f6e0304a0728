"""A page as a browser would read it, without one."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import NamedTuple

_ALONE = {"meta", "link", "img", "br", "hr", "input"}


class Element(NamedTuple):
    """A tag, its attributes, and the tags that it is in."""

    tag: str
    attributes: dict[str, str]
    within: tuple[str, ...]


class Page(HTMLParser):
    """All elements of a page, and all its text by the tag that holds it.

    Raises:
        AssertionError: a tag is closed that is not the last one opened.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}, tuple(self._open)))
        if tag not in _ALONE:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}, tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", " ".join(data.split())))

    def all(self, *tags: str) -> list[Element]:
        return [element for element in self.elements if element.tag in tags]

    def values(self, attribute: str) -> list[str]:
        return [element.attributes[attribute] for element in self.elements if attribute in element.attributes]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag not in ("style", "script", "title"))

    @property
    def headings(self) -> list[str]:
        return [text for tag, text in self.texts if tag == "h2"]
