from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.demo_data import command
from reveal_core.errors import UserError


def arguments(out: Path, *more: str) -> list[str]:
    return ["--out", str(out), "--items", "20", "--users", "3", "--workers", "1", *more]


def test_makes_a_shop_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    made = CliRunner().invoke(command, arguments(out), catch_exceptions=False)
    assert made.exit_code == 0
    assert "20 products and the purchases of 3 shoppers" in made.output
    assert "reveal run --manifest manifests/demo.yaml" in made.output
    for line in made.output.splitlines():
        if line.startswith("  "):  # every thing it claims to have written is there
            assert (out / line.split()[0]).exists()
    again = CliRunner().invoke(command, arguments(out), catch_exceptions=False)
    assert again.exit_code == 0
    assert "nothing to do" in again.output


def test_a_foreign_folder_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a demo shop"):
        CliRunner().invoke(command, arguments(tmp_path, "--force"), catch_exceptions=False)


@pytest.mark.parametrize("wrong", [["--items", "5"], ["--seed", "-1"], ["--users", "0"]])
def test_impossible_sizes_are_refused(tmp_path: Path, wrong: list[str]) -> None:
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "demo"), *wrong])
    assert result.exit_code == 2
    assert not (tmp_path / "demo").exists()


def test_help_shows_an_example() -> None:
    assert "reveal demo-data --out demo-data" in CliRunner().invoke(command, ["--help"]).output
