"""The error tree.

RevealError
└── UserError    the user's mistake: one line (what, where, how to mend), exit code 2
    └── LockedError    another run holds the work folder

Anything else that escapes is ours: exit code 1 and a traceback to send us. Functions that check arguments a
*programmer* passes raise plain ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Characters of a part of a message.
_LONGEST = 600
#: In what PyTorch says when it cannot allocate.
_NO_MEMORY = ("can't allocate memory", "out of memory")


class RevealError(Exception):
    """Base of every error this project raises on purpose."""


class UserError(RevealError):
    """Something the user can mend.

    Args:
        what: what is wrong, in plain words.
        where: the file, line or manifest field.
        mend: what to do about it.

    >>> str(UserError("no such file", where="data.root", mend="check the path"))
    'data.root: no such file (check the path)'
    >>> print(UserError("no item 'a\\nb'"))
    no item 'a\\nb'
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        line = f"{_plain(where)}: {_plain(what)}" if where else _plain(what)
        super().__init__(f"{line} ({_plain(mend)})" if mend else line)


def _plain(text: str) -> str:
    """Whoever names a value does not know what is in it: line breaks and control characters are shown as escapes, and
    of a long text its two ends, which tell most."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST * 2 // 3]} ... {text[-_LONGEST // 3 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class LockedError(UserError):
    """Another run holds the work folder."""


def first_reason(error: Exception) -> str:
    """The first line that says something: PyTorch opens with `Error(s) in loading state_dict for CLIP:`."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return line if len(line) <= 200 else f"{line[:197]}..."


def one_line(error: Exception) -> str:
    """What went wrong, for those who do not read tracebacks.

    >>> one_line(ValueError("too small\\nfor this")), one_line(KeyError()), one_line(UserError("no such file"))
    ('ValueError: too small', 'KeyError', 'no such file')
    """
    line = next(iter(str(error).splitlines()), "")
    if isinstance(error, UserError):
        return line
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def no_memory(error: Exception) -> UserError | None:
    """What to tell people where there was not enough memory; None where something else went wrong.

    PyTorch has no type of error for it on a CPU.
    """
    line = first_reason(error)
    if not isinstance(error, MemoryError) and not any(words in line.lower() for words in _NO_MEMORY):
        return None
    mend = "make what is held at once smaller, such as the widths and batch sizes of the manifest"
    return UserError(f"not enough memory: {line}", mend=mend)


@contextmanager
def said_of(field: str, instead_of: str) -> Iterator[None]:
    """What is refused in here because of one field, or of none in particular, is refused because of another."""
    try:
        yield
    except UserError as error:
        where = field if error.where in ("", instead_of) else error.where
        raise UserError(error.what, where=where, mend=error.mend) from None
