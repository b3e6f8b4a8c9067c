"""Fetching, offline: tiny archives of our own go the real way, through pip, a folder or a parquet file."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from src import fetch
from src.base.errors import UserError, disk_errors
from src.base.files import ROOT
from src.base.schema import Model
from src.source import archives, hub
from src.source.pins import NOTE, SOURCES, Source, UnavailableError, load_source
from src.source.weights import located

DATA = {"a/task.json": b'{"a": 1}', "b/task.json": b'{"b": 2}'}
SDIST = {"package": "tiny_tasks==1.0", "file": "tiny_tasks-1.0.tar.gz", "inside": "tiny_tasks-1.0/tiny"}
WHEEL = {"package": "tiny_weights==1.0", "file": "tiny_weights-1.0-py3-none-any.whl", "inside": "tiny_weights/model"}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pins(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: digest(content) for name, content in files.items()}


def make_sdist(folder: Path, files: Mapping[str, bytes] = DATA) -> Path:
    """tiny_tasks 1.0: its setup.py leaves a mark and fails, so that a run of it cannot go unseen."""
    path = folder / "tiny_tasks-1.0.tar.gz"
    mark = f"open({str(folder / 'RAN')!r}, 'w').close(); raise SystemExit('setup.py was run')".encode()
    info = b"Metadata-Version: 2.1\nName: tiny_tasks\nVersion: 1.0\n"
    members = {"setup.py": mark, "PKG-INFO": info, **{f"tiny/{name}": content for name, content in files.items()}}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"tiny_tasks-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_wheel(folder: Path, files: Mapping[str, bytes] = DATA, name: str = "tiny_weights") -> Path:
    """Version 1.0 of a package, which requires one that exists nowhere."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(f"{name}/model/{file}", content)
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of one folder, in the user's own pip configuration."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("DATA_DIR", raising=False)
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, and the current folder."""
    folder = tmp_path / "project"
    (folder / SOURCES).mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def write_source(root: Path, name: str, **values: Any) -> Source:
    given = {"licence": "MIT", "folder": f"data/raw/{name}", "files": pins(DATA), "disk_bytes": 1000, **values}
    (root / SOURCES / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **given}))
    return load_source(name, root)


def sdist_source(root: Path, **values: Any) -> Source:
    return write_source(root, "tiny", **{"archives": [SDIST], **values})


def wheel_source(root: Path, **values: Any) -> Source:
    return write_source(root, "tiny", **{"archives": [WHEEL], **values})


def held(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- the registry ---------------------------------------------------------------------------------------------


def test_an_sdist_gives_its_files_and_its_setup_is_not_run(root: Path, links: Path) -> None:
    archive = make_sdist(links)
    source = sdist_source(root, archives=[{**SDIST, "sha256": digest(archive.read_bytes())}])
    assert fetch.fetch(source, root) == "from tiny_tasks==1.0"
    assert held(root / "data") == {f"raw/tiny/{name}": content for name, content in DATA.items()}
    assert not (links / "RAN").exists()


def test_a_wheel_comes_without_what_it_requires(root: Path, links: Path) -> None:
    make_wheel(links)
    fetch.fetch(wheel_source(root), root)
    assert held(root / "data/raw/tiny") == DATA


def test_a_second_call_does_nothing(root: Path, links: Path) -> None:
    archive = make_wheel(links)
    source = wheel_source(root)
    fetch.fetch(source, root)
    archive.unlink()
    before = {p: p.stat().st_mtime_ns for p in (root / "data").rglob("*")}
    assert fetch.fetch(source, root) == "already there"
    assert {p: p.stat().st_mtime_ns for p in (root / "data").rglob("*")} == before


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_an_incomplete_folder_is_made_whole(root: Path, links: Path, harm: str) -> None:
    make_wheel(links)
    source = wheel_source(root)
    fetch.fetch(source, root)
    victim = root / "data/raw/tiny/a/task.json"
    victim.unlink() if harm == "missing" else victim.write_bytes(b"other")
    fetch.fetch(source, root)
    assert held(root / "data/raw/tiny") == DATA


def test_no_registry_says_what_pip_said_and_names_data_dir(root: Path, links: Path) -> None:
    with pytest.raises(UnavailableError, match=r"tiny: pip could not .*ERROR: No matching.*DATA_DIR"):
        fetch.fetch(wheel_source(root), root)
    assert held(root / "data") == {}


def test_an_unreachable_sdist_falls_back_to_plain_pip_and_says_the_same(root: Path, links: Path) -> None:
    with pytest.raises(UnavailableError, match=r"It said: ERROR: No matching distribution.*tiny_tasks-1.0.tar.gz"):
        fetch.fetch(sdist_source(root), root)


HALVES = {"one": b"the first part and ", "two": b"the second"}
WHOLE = b"".join(HALVES.values())


def parts_source(root: Path, **values: Any) -> Source:
    """A file in two wheels, a part in each, and another file beside the second part."""
    archives = [
        {"package": f"{name}==1.0", "file": f"{name}-1.0-py3-none-any.whl", "inside": f"{name}/model"}
        for name in HALVES
    ]
    given = {"files": pins({"whole": WHOLE, "b": b"b"}), "joined": {"whole": ["whole.one", "whole.two"]}}
    return write_source(root, "tiny", **{"archives": archives, **given, **values})


def make_parts(folder: Path) -> list[Path]:
    beside: dict[str, dict[str, bytes]] = {"one": {}, "two": {"b": b"b"}}
    return [make_wheel(folder, {f"whole.{name}": part, **beside[name]}, name) for name, part in HALVES.items()]


@pytest.mark.parametrize("way", ["registry", "DATA_DIR"])
def test_a_file_in_parts_is_joined_from_its_archives(
    root: Path, links: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    make_parts(links)
    if way == "DATA_DIR":
        monkeypatch.setenv("DATA_DIR", str(links))
    said = fetch.fetch(parts_source(root), root)
    files = "one-1.0-py3-none-any.whl, two-1.0-py3-none-any.whl in DATA_DIR"
    assert said == ("from one==1.0, two==1.0" if way == "registry" else f"from {files}")
    assert held(root / "data/raw/tiny") == {"whole": WHOLE, "b": b"b"}


def test_parts_in_the_wrong_order_are_not_the_file(root: Path, links: Path) -> None:
    make_parts(links)
    with pytest.raises(UserError, match="tiny: whole has sha256"):
        fetch.fetch(parts_source(root, joined={"whole": ["whole.two", "whole.one"]}), root)
    assert held(root / "data") == {}


def test_a_part_that_no_registry_has_is_named_with_all_the_files_to_bring(root: Path, links: Path) -> None:
    make_parts(links)[1].unlink()
    with pytest.raises(UnavailableError, match=r"could not download two==1.0.*files one-1.0-.*whl, two-1.0-.*whl, or"):
        fetch.fetch(parts_source(root), root)
    with pytest.raises(UserError, match="joined names other, which is not in files"):
        parts_source(root, joined={"other": ["whole.one"]})


# --- terms ----------------------------------------------------------------------------------------------------

TERMS = {"name": "tiny", "title": "Terms of Tiny", "url": "https://example.org/terms"}


def test_terms_are_named_and_nothing_comes_without_a_yes(
    root: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(links)
    source = wheel_source(root, terms=TERMS)
    for word in ("", "yes", "tin", "tinytiny"):
        monkeypatch.setenv("ACCEPT_TERMS", word)
        with pytest.raises(
            UnavailableError, match=r"Terms of Tiny \(https://example.org/terms\).*ACCEPT_TERMS=tiny python"
        ):
            fetch.fetch(source, root)
    assert held(root / "data") == {}


def test_a_yes_is_asked_for_once_and_holds_for_these_terms_alone(
    root: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(links)
    monkeypatch.setenv("ACCEPT_TERMS", "other, tiny")
    assert fetch.fetch(wheel_source(root, terms=TERMS), root) == "from tiny_weights==1.0"
    monkeypatch.delenv("ACCEPT_TERMS")
    assert fetch.fetch(wheel_source(root, terms=TERMS), root) == "already there"
    given = json.loads((root / "data/terms.json").read_text())
    assert given[TERMS["url"]]["name"] == "tiny"
    with pytest.raises(UnavailableError, match=r"https://example\.org/second"):
        fetch.fetch(wheel_source(root, terms={**TERMS, "url": "https://example.org/second"}), root)


@pytest.mark.skipif(os.name == "nt", reason="needs a terminal of POSIX")
@pytest.mark.parametrize(("typed", "code"), [("tiny", 0), ("no", 1), ("", 1)])
def test_a_terminal_is_asked(root: Path, links: Path, typed: str, code: int) -> None:
    import pty

    make_wheel(links)
    wheel_source(root, terms=TERMS)
    outer, inner = pty.openpty()
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from src import fetch; fetch.main(['tiny'])",
    ]
    running = subprocess.Popen(command, cwd=root, stdin=inner, stdout=subprocess.DEVNULL, stderr=inner)
    os.close(inner)
    said = b""
    while b"to leave: " not in said:
        said += os.read(outer, 4096)
    os.write(outer, typed.encode() + b"\n")
    assert running.wait(60) == code
    os.close(outer)
    assert b"Terms of Tiny (https://example.org/terms)" in said
    assert bool(held(root / "data")) == (code == 0)


def test_no_suite_that_is_run_unasked_has_terms() -> None:
    """What `make repro` and the suites of the paper fetch binds nobody."""
    for path in sorted((ROOT / "conf/suite").glob("*.yaml")):
        suite = yaml.safe_load(path.read_text())
        with_terms = [name for name in suite["sources"] if load_source(name, ROOT).terms]
        assert not with_terms or suite["suite"] == "pair"


# --- hashes, damage, space ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "file"),
    [
        ({"archives": [{**WHEEL, "sha256": "0" * 64}]}, "tiny_weights-1.0-py3-none-any.whl"),
        ({"files": {**pins(DATA), "b/task.json": "0" * 64}}, "task.json"),
    ],
)
def test_a_wrong_hash_names_file_got_and_expected_and_leaves_nothing(
    root: Path, links: Path, values: dict[str, Any], file: str
) -> None:
    make_wheel(links)
    with pytest.raises(UserError, match=rf"tiny: {file} has sha256 [0-9a-f]{{64}}, .*expects 0{{64}}.*fetch it again"):
        fetch.fetch(wheel_source(root, **values), root)
    assert held(root / "data") == {}


def test_a_member_the_archive_lacks_is_named(root: Path, links: Path) -> None:
    make_wheel(links)
    with pytest.raises(UserError, match=r"tiny_weights-1.0-py3-none-any.whl does not hold c.json"):
        fetch.fetch(wheel_source(root, files={"c.json": "0" * 64}), root)


@pytest.mark.parametrize(("make", "of"), [(make_wheel, wheel_source), (make_sdist, sdist_source)])
def test_a_cut_archive_is_a_clear_error(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, of: Any
) -> None:
    archive = make(tmp_path)
    archive.write_bytes(archive.read_bytes()[:200])
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="is damaged"):
        fetch.fetch(of(root), root)
    assert held(root / "data") == {}


def test_no_space_is_seen_before_anything_is_downloaded(root: Path, links: Path) -> None:
    with pytest.raises(UserError, match=r"tiny: no space. Fetching needs 1,000,000,000,000 MB .* are free"):
        fetch.fetch(wheel_source(root, disk_bytes=10**18), root)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="tiny: No space left on device"), disk_errors("tiny"):
        Path("/dev/full").write_bytes(b"x")


def test_a_killed_fetch_leaves_no_target_and_its_rest_is_swept(root: Path, links: Path) -> None:
    """A process is killed while its files are half written; the next one starts clean."""
    target = root / "data/raw/tiny"
    halfway = (
        "import os, signal; from pathlib import Path; from src.source.archives import scratch\n"
        f"with scratch(Path({str(target)!r})) as work:\n"
        "    (work / 'files/a').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", halfway], cwd=ROOT)
    assert killed.returncode == -9
    assert not target.exists()
    assert len(held(root / "data")) == 1
    make_wheel(links)
    fetch.fetch(wheel_source(root), root)
    assert held(root / "data/raw") == {f"tiny/{name}": content for name, content in DATA.items()}


def test_an_interrupted_write_leaves_nothing(root: Path) -> None:
    def half() -> None:
        with archives.scratch(root / "data/raw/tiny") as work:
            (work / "files/a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert held(root / "data") == {}


# --- DATA_DIR -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [".", "tiny"])
@pytest.mark.parametrize("what", ["files", "archive"])
def test_data_dir_is_looked_at_first(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, what: str
) -> None:
    """No registry is configured here, so only DATA_DIR can have served it."""
    folder = tmp_path / "mine" / inside
    folder.mkdir(parents=True)
    if what == "archive":
        make_sdist(folder)
    for name, content in DATA.items() if what == "files" else ():
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(content)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "DATA_DIR" in fetch.fetch(sdist_source(root), root)
    assert held(root / "data/raw/tiny") == DATA


def test_a_data_dir_that_is_no_folder_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(root / "nowhere"))
    with pytest.raises(UserError, match=r"DATA_DIR=.*nowhere is no folder"):
        fetch.fetch(sdist_source(root), root)


def test_a_wrong_file_in_data_dir_is_not_taken(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.jsonl").write_text("other\n")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"x.jsonl has sha256 .* Where it lies in DATA_DIR, replace it"):
        fetch.fetch(write_source(root, "tiny", files={"x.jsonl": "0" * 64}), root)


# --- the hub --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub reads its variables when imported, so this is for commands in a process of their own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("DATA_DIR", raising=False)


def command(root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`python -m src.fetch` in the folder `root`."""
    return subprocess.run(
        [sys.executable, "-m", "src.fetch", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_rows_of_a_parquet_file_become_the_pinned_json_lines(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"id": str(i), "question": f"é{i}?", "extra": i, "choices": {"label": ["A", "B"], "text": ["x", "y"]}}
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    text = hub.json_lines(tmp_path / "test.parquet", ["question", "choices"], rows=[2, 0])
    assert text == (
        '{"question": "\\u00e92?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}}\n'
        '{"question": "\\u00e90?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}}\n'
    )
    assert len(hub.json_lines(tmp_path / "test.parquet", ["id"]).splitlines()) == 3


@pytest.mark.parametrize("name", ["gsm8k", "commonsense_qa"])
def test_the_hub_way_gives_the_bytes_that_data_dir_gives(
    name: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real files, where the user has them: parquet of their rows -> the same bytes as pinned."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    held_by_user = Path(os.environ.get("DATA_DIR", ROOT.parent / "shared/data"))
    source = load_source(name, ROOT)
    if not all((held_by_user / file).is_file() for file in source.files):
        pytest.skip("the files are not at hand (DATA_DIR)")
    monkeypatch.setenv("DATA_DIR", str(held_by_user))
    assert fetch.fetch(source, root) == "from DATA_DIR"
    pinned = {file: table for file, table in source.tables.items() if file in source.files}
    for file, table in pinned.items():
        rows = [json.loads(line) for line in (root / source.folder / file).read_text().splitlines()]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
        text = hub.json_lines(tmp_path / "x.parquet", table.columns)
        assert digest(text.encode()) == source.files[file]


@pytest.mark.usefixtures("no_hub")
def test_an_unreachable_hub_ends_in_one_line_that_names_file_and_variable(root: Path) -> None:
    write_source(root, "tiny", files={"x.jsonl": "0" * 64}, hub="nobody/nothing", tables={"x.jsonl": TABLE})
    done = command(root, "tiny")
    assert done.returncode == 1
    assert done.stderr.startswith("error: tiny: the hub does not give nobody/nothing: ")
    assert "HF_HUB_OFFLINE" in done.stderr
    assert "x.jsonl" in done.stderr
    assert "DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_optional_file_is_taken_along_where_it_is_given_even_later(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(root, "tiny", files={"x.jsonl": digest(b"{}\n")}, optional=["train.jsonl"])
    (tmp_path / "x.jsonl").write_bytes(b"{}\n")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    source = load_source("tiny", root)
    assert fetch.fetch(source, root) == "from DATA_DIR"
    assert fetch.fetch(source, root) == "already there"
    (tmp_path / "train.jsonl").write_bytes(b"{}\n{}\n")
    assert fetch.fetch(source, root) == "from DATA_DIR"
    assert held(root / "data/raw/tiny") == {"x.jsonl": b"{}\n", "train.jsonl": b"{}\n{}\n"}
    monkeypatch.delenv("DATA_DIR")
    assert fetch.fetch(source, root) == "already there"


TABLE = {"path": "main/test.parquet", "columns": ["question"]}


@pytest.mark.usefixtures("no_hub")
def test_under_incomplete_report_the_reason_stands_in_the_folder_and_later_gives_way(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(root, "tiny", files={"x.jsonl": digest(b"{}\n")}, hub="nobody/nothing", tables={"x.jsonl": TABLE})
    assert command(root, "tiny", "--incomplete", "report").returncode == 0
    assert "DATA_DIR" in (root / "data/raw/tiny" / NOTE).read_text()
    (tmp_path / "x.jsonl").write_bytes(b"{}\n")
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    assert command(root, "tiny").returncode == 0
    assert held(root / "data/raw/tiny") == {"x.jsonl": b"{}\n"}


# --- names and keys -------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_near_and_known_ones(root: Path) -> None:
    sdist_source(root)
    with pytest.raises(SystemExit) as end:
        fetch.main(["tiny", "tinny"])
    assert end.value.code == "error: Unknown source 'tinny'. Did you mean tiny? Known (conf/source/*.yaml): tiny"
    assert held(root / "data") == {}


@pytest.mark.parametrize(
    ("harm", "said"), [({"fils": {}}, "'?fils'?.* not in '?Source"), ({"disk_bytes": "many"}, "many.*Integer")]
)
def test_a_misspelt_key_or_value_is_a_user_error(root: Path, harm: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=rf"conf/source/tiny.yaml: .*{said}"):
        write_source(root, "tiny", **harm)


@pytest.mark.parametrize("path", sorted((ROOT / SOURCES).glob("*.yaml")), ids=lambda p: p.stem)
def test_every_source_is_pinned_and_can_be_had_somewhere(path: Path) -> None:
    source = load_source(path.stem, ROOT)
    hashes = [*source.files.values(), *source.converted.values()]
    assert source.name == path.stem
    assert all(len(pin) == 64 and set(pin) <= set("0123456789abcdef") for pin in hashes)
    assert all(len(archive.sha256 or "") == 64 for archive in source.archives)
    assert source.hub is None or set(source.tables) == {*source.files, *source.optional}
    assert source.archives or source.hub
    assert (source.convert in fetch.CONVERSIONS) == bool(source.converted)


# --- weights --------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, weights: bytes = b"w") -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "config.json").write_text("{}")
    return folder


def test_the_identity_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one, same = checkpoint(tmp_path / "one"), checkpoint(tmp_path / "same")
    (same / "README.md").write_text("notes")
    other = checkpoint(tmp_path / "other", b"v")
    ids = [located(Model(name="m", path=str(folder)), tmp_path)[1] for folder in (one, same, other)]
    assert ids[0] == ids[1] != ids[2]


def test_a_fetched_source_is_found_by_its_name(root: Path) -> None:
    source = write_source(root, "tiny", converted=pins({"model.safetensors": b"w"}), convert="gguf")
    with pytest.raises(UserError, match=r"m: its weights are not in data/raw/tiny. .*python -m src.fetch tiny"):
        located(Model(name="m", source="tiny"), root)
    folder = checkpoint(root / source.folder)
    found, identity = located(Model(name="m", source="tiny"), root)
    assert found == folder
    assert identity.startswith("sha256:")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Model(name="m", path="nowhere"), r"m: model.path=nowhere is no folder"),
        (Model(name="m", path="."), r"m: \. holds no \*.safetensors"),
        (Model(name="m", gate="Ask the owners."), r"m: no weights. Ask the owners. .*model.path=/that/folder"),
        (Model(name="m", source="tinny"), r"Unknown source 'tinny'"),
    ],
)
def test_weights_that_are_not_there_say_what_would_help(root: Path, model: Model, said: str) -> None:
    with pytest.raises(UserError, match=said):
        located(model, root)


@pytest.mark.usefixtures("no_hub")
def test_a_gated_model_without_hub_names_everything_that_helps(root: Path) -> None:
    script = (
        "from src.base.errors import UserError; from src.base.schema import Model\n"
        "from src.source.weights import located\n"
        "try: located(Model(name='m', hub='meta/m', revision='0' * 40, gate='Accept the licence.'))\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    for part in ("m: the hub does not give meta/m at 00000000", "Accept the licence.", "HF_TOKEN", "HF_HOME"):
        assert part in done.stdout
    assert "model.path=/that/folder" in done.stdout


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_in_the_hub_cache_are_used_offline(tmp_path: Path, suffix: str) -> None:
    commit = "0123456789" * 4
    folder = tmp_path / f"hf/hub/models--nobody--m/snapshots/{commit}"
    folder.mkdir(parents=True)
    (folder / f"model.{suffix}").write_bytes(b"w")
    script = (
        "from src.base.schema import Model; from src.source.weights import located\n"
        f"print(*located(Model(name='m', hub='nobody/m', revision={commit!r})))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{folder} nobody/m@{commit}\n"


# --- the real thing -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bigbench", "minilm", "rhyming"])
def test_the_pinned_packages_are_what_the_registry_serves(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    source = load_source(name, ROOT)
    assert fetch.fetch(source, root).startswith(f"from {source.archives[0].package}")
    assert fetch.fetch(source, root) == "already there"
    assert set(held(root / source.folder)) == {*source.files, *source.converted}


@pytest.mark.slow
def test_the_converted_weights_are_the_dequantised_ones_bit_for_bit() -> None:
    """Against the gguf package's own dequantisation; query and key rows are permuted between the two layouts."""
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors.numpy import load_file

    source = load_source("smollm2_135m_instruct", ROOT)
    fetch.fetch(source, ROOT)
    converted = load_file(ROOT / source.folder / "fp32/model.safetensors")
    reader = GGUFReader(ROOT / source.folder / next(iter(source.files)))
    tensors = {t.name: dequantize(t.data, t.tensor_type) for t in reader.tensors}
    pairs = [(converted[hf_name(name)], value, name) for name, value in tensors.items()]
    assert len(pairs) == len(converted) == 272
    for ours, theirs, name in pairs:
        assert ours.dtype == np.float32
        assert np.array_equal(*((rows(ours), rows(theirs)) if "attn_q" in name or "attn_k" in name else (ours, theirs)))


def rows(matrix: Any) -> Any:
    """The rows in an order of their own: (n, m) -> (n, m)."""
    import numpy as np

    return matrix[np.lexsort(matrix.T)]


PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "token_embd": "embed_tokens",
    "output_norm": "norm",
}


def hf_name(name: str) -> str:
    """GGUF tensor name -> name in safetensors."""
    *block, part, _ = name.split(".")
    return ".".join(["model", *(["layers", block[1]] if block else []), PARTS[part], "weight"])
