"""What a disk refuses is told as such, whoever met it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from reveal_core.disk import atomic_path, refusal


def full(where: str | None = None) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)


def chained() -> Exception:
    try:
        try:
            raise full("/data/x")
        except OSError as error:
            raise RuntimeError("writing failed") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (full("/data/x"), "/data/x: No space left on device (free some space"),
        (full(), "No space left on device (free some space"),
        (chained(), "/data/x: No space left on device"),
        (RuntimeError("IoError: No space left on device (os error 28)"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "w"), "w: Permission denied (mend its permissions"),
        (OSError(errno.EFBIG, "File too large", "w"), "w: File too large (raise the limit"),
    ],
)
def test_refusals_are_told_with_what_to_do(error: Exception, line: str) -> None:
    told = refusal(error)
    assert told is not None
    assert str(told).startswith(line)


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("No space"), FileNotFoundError(errno.ENOENT, "no", "x")])
def test_other_errors_are_none(error: Exception) -> None:
    assert refusal(error) is None


def test_a_write_that_fails_says_where_and_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_path(tmp_path / "new") as temporary:
            temporary.write_text("half")
            raise full()

    with pytest.raises(OSError, match="No space") as raised:
        write()
    assert raised.value.filename == str(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_what_is_written_as_any_new_file(tmp_path: Path) -> None:
    """Some libraries make files that are the owner's alone."""
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_path(tmp_path / "x") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert (tmp_path / "x").stat().st_mode == plain.stat().st_mode
