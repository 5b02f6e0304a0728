"""What SECURITY.md promises: no code out of data, no path out of its folder, nothing that acts on a screen."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click.testing
import numpy as np
import polars as pl
import pytest
from PIL import Image

import cli.main
from pipeline.manifest import load_manifest
from pipeline.stages import plan
from reveal_core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for package in ("reveal_core", "pipeline", "cli") for path in (ROOT / package).rglob("*.py"))

#: Modules that turn data into code, or load objects.
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
#: Calls that do, or that unpack or run something; by the end of their dotted name.
CALLS = {
    "torch.save", "torch.hub.load", "read_pickle", "to_pickle", "os.system", "os.popen", "extractall",
    "unpack_archive", "yaml.unsafe_load", "yaml.full_load",
}  # fmt: skip
#: Calls that must say so, and what.
MUST_SAY = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "np.save": ("allow_pickle", False),
}
#: What no call may say.
NEVER = {"shell": True, "allow_pickle": True, "weights_only": False, "trust_remote_code": True, "verify": False}


def faults(source: str) -> Iterator[str]:
    """Every place in a module that could run what data say."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (f"imports {name}" for name in names if name.split(".")[0] in PICKLES)
        if isinstance(node, ast.Call):
            yield from faults_of_call(node)


def faults_of_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    said = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
    if name.removeprefix("builtins.") in BUILTINS or any(f".{name}".endswith(f".{call}") for call in CALLS):
        yield f"calls {name}"
    if name == "yaml.load" and "Loader" not in {word.arg for word in node.keywords}:
        yield "calls yaml.load without a loader"
    if name in MUST_SAY:
        word, value = MUST_SAY[name]
        if said.get(word) is not value:
            yield f"{name} does not say {word}={value}"
    yield from (f"{name} says {word}={value}" for word, value in NEVER.items() if said.get(word) is value)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_runs_what_data_say(path: Path) -> None:
    assert list(faults(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "import torch, dill as d", "eval('1')", "builtins.exec(x)",
        "torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)", "np.load(p, allow_pickle=True)",
        "np.save(p, x)", "pl.read_pickle(p)", "tar.extractall()", "shutil.unpack_archive(p)", "yaml.load(text)",
        "subprocess.run(x, shell=True)", "AutoModel.from_pretrained(x, trust_remote_code=True)", "torch.save(x, p)",
    ],
)  # fmt: skip
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    assert list(faults(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)", "re.compile(x)", "model.eval()",
        "parts.list.eval(x)", "yaml.load(text, Loader=Ours)", "import json", "subprocess.run([x])",
    ],
)  # fmt: skip
def test_the_scan_passes_over_what_is_harmless(source: str) -> None:
    assert list(faults(source)) == []


def test_archives_are_opened_in_one_place_and_never_unpacked() -> None:
    openers = {"tarfile", "zipfile"}
    users = [
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and openers & {alias.name for alias in node.names}
    ]
    assert users == ["pipeline/sources/tar.py"]


MANIFEST = {
    "name": "shop",
    "data": {
        "adapter": {
            "kind": "table",
            "interactions": {"file": "log.csv", "timestamp": "at"},
            "items": {"file": "i.csv"},
        },
        "root": "shop",
        "images": {"folder": "images"},
    },
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "../other"),
        ("name", "/etc"),
        ("name", "a/b"),
        ("name", ".."),
        ("data.adapter.interactions.file", "../log.csv"),
        ("data.adapter.interactions.file", "/etc/passwd"),
        ("data.adapter.items.file", "a/../../i.csv"),
        ("data.images.folder", ".."),
        ("data.images.folder", "/"),
        ("data.images.folder", "a/../.."),
        ("data.images.pattern", "../{item_id}.jpg"),
        ("data.images.pattern", "{item_id}/../../x.jpg"),
        ("data.images", {"source": {"kind": "folder", "folder": "../images"}}),
        ("data.images", {"source": {"kind": "tar", "files": "../*.tar"}}),
        ("data.images", {"source": {"kind": "tar", "files": "/data/*.tar"}}),
        ("data.images", {"source": {"kind": "tar", "files": "a.tar", "pattern": "../{item_id}.jpg"}}),
    ],
    ids=str,
)
def test_no_path_of_a_manifest_leads_out_of_its_root(tmp_path: Path, field: str, value: object) -> None:
    document = json.loads(json.dumps(MANIFEST))
    *sections, last = field.split(".")
    node = document
    for section in sections:
        node = node[section]
    node[last] = value
    (tmp_path / "shop").mkdir()
    document["data"]["root"] = str(tmp_path / "shop")
    for name in ("log.csv", "i.csv"):
        (tmp_path / name).write_text("user_id,item_id,at\na,b,1\n")
        (tmp_path / "shop" / name).write_text("user_id,item_id,at\na,b,1\n")
    (tmp_path / "manifest.yaml").write_text(json.dumps(document))

    def use() -> None:
        manifest = load_manifest(tmp_path / "manifest.yaml")
        plan(manifest)
        manifest.data.adapter.files(Path(manifest.data.root))

    with pytest.raises(UserError) as caught:
        use()
    assert "\n" not in str(caught.value)


HOSTILE_IDS = [
    "../../outside", "/etc/passwd", "..\\..\\x", "C:\\x", "[red]x[/red]", "<script>alert(1)</script>", "\x1b[2Jx",
    "$(touch x)", "'; DROP TABLE facts; --", "%2e%2e%2f", "~root", "-rf", "{item_id}", "a" * 300, "con", "null",
]  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Items whose ids and titles are hostile, some with an image that has their name."""
    root = tmp_path / "shop"
    (root / "images").mkdir(parents=True)
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    picture.save(tmp_path / "outside.jpg", "JPEG")
    picture.save(root / "images" / "null.jpg", "JPEG")
    for name in ("[red]x[", "<script>alert(1)<"):
        (root / "images" / name).mkdir()
    (root / "images" / "[red]x[" / "red].jpg").write_text("no image")
    (root / "images" / "<script>alert(1)<" / "script>.jpg").write_text("no image")
    items = [{"item_id": item_id, "title": item_id} for item_id in HOSTILE_IDS]
    log = [{"user_id": f"u{u}", "item_id": item_id, "at": u} for u in range(3) for item_id in HOSTILE_IDS]
    for name, rows in (("items", items), ("log", log)):
        (root / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    adapter = {
        "kind": "table",
        "interactions": {"file": "log.jsonl", "timestamp": "at"},
        "items": {"file": "items.jsonl", "title": "title"},
    }
    data = {"adapter": adapter, "root": str(root), "images": {"folder": "images"}}
    (tmp_path / "shop.yaml").write_text(json.dumps({"name": "shop", "data": data, "encoder": {"kind": "fake"}}))
    return root


@pytest.fixture
def reveal(tmp_path: Path) -> Callable[..., str]:
    def call(*arguments: str) -> str:
        options = ["--manifest", str(tmp_path / "shop.yaml"), "--workdir", str(tmp_path / "work")]
        result = click.testing.CliRunner().invoke(cli.main.reveal, [*arguments, *options], env={"COLUMNS": "300"})
        assert result.exit_code == 0, result.output
        return result.output

    return call


def test_hostile_ids_and_titles_are_data(shop: Path, reveal: Callable[..., str], tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if "work" not in path.relative_to(tmp_path).parts}
    output = reveal("extract")
    assert {path for path in tmp_path.rglob("*") if "work" not in path.relative_to(tmp_path).parts} == before
    images = pl.read_parquet(tmp_path / "work/runs/shop/images/images.parquet")
    statuses = dict(images.select("item_id", "status").iter_rows())
    assert set(statuses) == set(HOSTILE_IDS)
    assert [statuses[item_id] for item_id in HOSTILE_IDS[:4]] == ["refused"] * 4
    assert statuses["[red]x[/red]"] == statuses["<script>alert(1)</script>"] == "unreadable"
    assert [item_id for item_id, status in statuses.items() if status == "ok"] == ["null"]
    assert "../../outside is refused" in output
    assert "\x1b[2J" not in output
    assert "done" in reveal("status")
