"""Text from outside, as people may see it."""

from __future__ import annotations

import unicodedata

#: Control characters, those that change the direction of what follows, line separators, and halves of characters.
_UNSEEN = ("Cc", "Cf", "Zl", "Zp", "Cs")


def printable(text: str) -> str:
    """One line without a character that a terminal would act on; names, titles and addresses may hold anything.

    >>> printable("a\\x1b[2Jb\\nc")
    'a\\\\x1b[2Jb\\\\nc'
    """
    if text.isprintable():
        return text
    return "".join(ascii(char)[1:-1] if unicodedata.category(char) in _UNSEEN else char for char in text)
