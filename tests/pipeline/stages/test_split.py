from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from pipeline.stages.split import Split, cut_report
from reveal_core.batches import TrainingBatches
from reveal_core.errors import UserError
from reveal_core.evaluation import build_cases
from reveal_core.interactions import whole_users
from reveal_core.schema import INTERACTIONS, SPLIT
from reveal_core.sequences import Sequences
from reveal_core.splits import LeaveLastOut, SplitConfig, TimeCut

DAY = 86_400_000


def run(folder: Path, users: list[int], **settings: SplitConfig) -> tuple[dict[str, object], Path]:
    """``users[u]`` interactions of user u, one a day from 1970-01-01."""
    rows = [
        (user, 1 + at, f"u{user}", f"i{at}", None, at * DAY, at)
        for user, length in enumerate(users)
        for at in range(length)
    ]
    (folder / "ingest").mkdir(parents=True)
    (folder / "out").mkdir()
    pl.DataFrame(rows, schema=INTERACTIONS, orient="row").write_parquet(folder / "ingest" / "interactions.parquet")
    work = SimpleNamespace(out_dir=folder / "out")
    return Split(**settings).run({"ingest": folder / "ingest"}, work), folder / "out"  # type: ignore[arg-type]


def test_writes_three_tables_the_rule_and_the_counts(tmp_path: Path) -> None:
    report, out = run(tmp_path, [4, 2, 3])
    assert sorted(path.name for path in out.iterdir()) == [
        "split.json",
        "test.parquet",
        "train.parquet",
        "valid.parquet",
    ]
    tables = {name: pl.read_parquet(out / f"{name}.parquet") for name in ("train", "valid", "test")}
    assert all(dict(table.schema) == SPLIT for table in tables.values())
    written = json.loads((out / "split.json").read_text())
    assert "leave last out" in written.pop("rule")
    assert written == {
        "train_users": 3,
        "train_interactions": tables["train"].height,
        "valid_interactions": 2,
        "valid_targets": 2,
        "test_interactions": 2,
        "test_targets": 2,
        "withheld_items": 0,
        "withheld_test_targets": 0,
        "dropped_interactions": 0,
    }
    assert tables["train"].height == 5
    assert report["summary"] == "5 interactions to learn from, 2 validation and 2 test targets"


def test_each_table_says_which_part_it_is(tmp_path: Path) -> None:
    _, out = run(tmp_path, [4, 2, 3])
    for part in ("train", "valid", "test"):
        assert pl.read_parquet_metadata(out / f"{part}.parquet")["part"] == part


def test_withheld_items_are_counted_and_nobody_learns_from_them(tmp_path: Path) -> None:
    """Every user goes through the items from 1 on; this seed withholds 3, 5 and 6 of the 8."""
    report, out = run(tmp_path, [4, 6, 3, 8], split=LeaveLastOut(withhold_items=0.4, withhold_seed=20))
    written = json.loads((out / "split.json").read_text())
    assert "withheld: 0.4 of the items" in written["rule"]
    # Test targets are 4, 6, 3, 8. Validation targets were 3, 5, 2, 7; besides them 3 goes twice, 5 and 6 once.
    counts = {"test_targets": 4, "valid_targets": 2, "withheld_items": 3, "withheld_test_targets": 2}
    assert counts.items() <= written.items()
    assert written["dropped_interactions"] == 6
    assert str(report["summary"]).endswith("2 validation and 4 test targets; 2 ask for one of 3 withheld items")
    learned = pl.read_parquet(out / "train.parquet")["item_index"]
    assert sorted(learned.unique()) == [1, 2, 4]


def test_a_user_with_nothing_left_to_learn_from_is_still_asked_what_can_be(tmp_path: Path) -> None:
    """Item 1 is withheld, so user 1 has nothing before the validation target, but that before the test target."""
    _, out = run(tmp_path, [5, 3, 5], split=LeaveLastOut(withhold_items=0.1, withhold_seed=3))
    tables = {part: pl.read_parquet(out / f"{part}.parquet") for part in ("train", "valid", "test")}
    assert tables["train"]["user_index"].to_list() == [0, 0, 2, 2]
    valid = build_cases(tables["train"], tables["valid"])
    assert valid.user_index.tolist() == [0, 2]
    test = build_cases(*tables.values())
    assert test.user_index.tolist() == [0, 1, 2]
    assert [test.histories[case].tolist() for case in range(3)] == [[2, 3, 4], [2], [2, 3, 4]]
    histories = Sequences.from_frame(tables["train"], 3)
    batches = TrainingBatches(histories, max_seq_len=4, batch_size=8, seed=0).epoch(0)
    learned = np.concatenate([batches[step].pos_items.flatten() for step in range(len(batches))])
    assert learned.tolist() == [3, 3]


def test_too_many_withheld_items_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no valid targets.*make split\.withhold_items smaller"):
        run(tmp_path, [4, 4], split=LeaveLastOut(withhold_items=0.99))


@pytest.mark.parametrize(
    "config",
    [
        LeaveLastOut(),
        LeaveLastOut(withhold_items=0.4, withhold_seed=20),
        TimeCut(valid_from="1970-01-03", test_from="1970-01-05", withhold_items=0.1),
    ],
)
@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_a_log_in_blocks_is_counted_like_the_whole(tmp_path: Path, config: SplitConfig, rows: int) -> None:
    _, out = run(tmp_path, [4, 6, 3, 8, 1, 5], split=config)
    log = pl.read_parquet(tmp_path / "ingest" / "interactions.parquet")
    blocks = list(whole_users(log[start : start + rows] for start in range(0, log.height, rows)))
    assert pl.concat(blocks).equals(log)
    users = [user for block in blocks for user in block["user_index"].unique()]
    assert sorted(users) == list(range(6)), "each in one block"
    assert cut_report(blocks, config) == json.loads((out / "split.json").read_text())


@pytest.mark.parametrize("config", [LeaveLastOut(), TimeCut(valid_from="1980-01-01", test_from="1981-01-01")])
def test_a_log_in_blocks_says_the_same_when_there_is_nothing(config: SplitConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError) as whole:
        run(tmp_path, [2, 1, 2, 2], split=config)
    log = pl.read_parquet(tmp_path / "ingest" / "interactions.parquet")
    with pytest.raises(UserError) as parts:
        cut_report(whole_users(log[row : row + 1] for row in range(log.height)), config)
    assert str(parts.value) == str(whole.value)


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    _, first = run(tmp_path / "a", [4, 3])
    _, second = run(tmp_path / "b", [4, 3])
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_too_short_histories_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no valid targets and no test targets .*has 2 interactions, 3 are needed"):
        run(tmp_path, [2, 1])


def test_a_cut_outside_the_log_says_where_the_log_is(tmp_path: Path) -> None:
    config = TimeCut(valid_from="1980-01-01", test_from="1981-01-01")
    with pytest.raises(UserError, match=r"from 1970-01-01 .* to 1970-01-04 .*: move split\.valid_from"):
        run(tmp_path, [4, 3], split=config)
