"""What cannot be read hides nothing else: a row of each table of the database, the files of an image.

The engine starts, shows and uses all other objects, names what is wrong, and can be rid of it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import busybox
from tests.support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]
NEVER_READ = {"refs"}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    one = Engine(tmp_path / "e")
    one.directory.mkdir()
    one.start()
    try:
        yield one
    finally:
        one.close()


def _database(engine: Engine) -> sqlite3.Connection:
    return sqlite3.connect(engine.data_root / "sampan.db")


def _tables(engine: Engine) -> list[str]:
    with closing(_database(engine)) as raw:
        names = {row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return sorted(names - NEVER_READ)


def _two_of_each(engine: Engine) -> None:
    """Two images with layers of their own, of which each has a container, a volume and a network."""
    for tag in ("one", "two"):
        engine.import_busybox(tag)
        dockerfile = f"FROM busybox:{tag}\nRUN echo {tag} >/made\n"
        (engine.directory / tag).mkdir()
        (engine.directory / tag / "Dockerfile").write_text(dockerfile)
        engine.cli("sampan", "build", "-t", f"built:{tag}", str(engine.directory / tag))
        engine.call("POST", "/volumes/create", {"Name": f"volume-{tag}"})
        engine.call("POST", "/networks/create", {"Name": f"network-{tag}"})
        engine.run("sh", "-c", f"echo {tag} >/kept", image=f"built:{tag}", name=tag, Binds=[f"volume-{tag}:/v"])
        engine.wait(tag)


def _findings(engine: Engine, *, repair: bool) -> list[dict[str, object]]:
    found: list[dict[str, object]] = engine.call("POST", "/system/fsck", repair="1" if repair else "0")["Findings"]
    return found


def _is_usable(engine: Engine) -> None:
    """Every list answers, and work goes on."""
    for path in ("/images/json", "/containers/json?all=1", "/volumes", "/networks", "/system/df", "/info"):
        engine.call("GET", path)
    engine.import_busybox("new")
    new = engine.run("true", image="busybox:new", name="new")
    assert engine.wait(new) == 0
    engine.remove(new)
    engine.call("DELETE", "/images/busybox:new")


def test_a_row_that_cannot_be_read_hides_no_other(engine: Engine) -> None:
    _two_of_each(engine)
    engine.stop()
    tables = _tables(engine)
    assert {"images", "tags", "containers", "volumes", "networks", "layers", "snapshots", "build_cache"} <= set(tables)
    whole = (engine.data_root / "sampan.db").read_bytes()
    for table in tables:
        (engine.data_root / "sampan.db").write_bytes(whole)
        with closing(_database(engine)) as raw:
            row = raw.execute(f'SELECT id FROM "{table}" ORDER BY seq DESC').fetchone()
            if row is None:
                continue
            raw.execute(f'UPDATE "{table}" SET json = ? WHERE id = ?', (b'{"id": 1}', row[0]))
            raw.commit()
        engine.start()
        _is_usable(engine)
        found = [f for f in _findings(engine, repair=False) if f["Kind"] == "record"]
        assert [f["ID"] for f in found] == [f"{table}/{row[0]}"], (table, found)
        assert not any(f["Repaired"] for f in _findings(engine, repair=False))
        kept = engine.request("GET", "/containers/one/archive?path=/kept")
        assert kept.status == 200 and engine.inspect("one")["State"]["Status"] == "exited"
        assert f"of table {table} cannot be read" in engine.log.read_text()
        if table == "containers":  # its files are still there for when it can be read again
            assert len(list((engine.data_root / "containers").iterdir())) == 2
        engine.stop()
    (engine.data_root / "sampan.db").write_bytes(whole)
    engine.start()
    assert engine.request("GET", "/containers/two/archive?path=/kept").status == 200  # nothing was cleaned up


def test_a_repair_removes_the_row_and_then_what_only_it_named(engine: Engine) -> None:
    _two_of_each(engine)
    engine.stop()
    with closing(_database(engine)) as raw:
        raw.execute("UPDATE containers SET json = ? WHERE CAST(json AS TEXT) LIKE '%\"two\"%'", (b"{",))
        raw.execute("UPDATE volumes SET json = '5' WHERE id = 'volume-two'")
        raw.commit()
    engine.start()
    repaired = [f["Kind"] for f in _findings(engine, repair=True) if f["Repaired"]]
    assert repaired == ["record", "record"]
    while any(f["Repaired"] for f in _findings(engine, repair=True)):
        pass
    left = {(f["Kind"], f["ID"]) for f in _findings(engine, repair=False)}
    assert left <= {("volume", "volume-two")}, left  # an empty one goes, one with files may be somebody's only copy
    assert [c["Names"] for c in engine.call("GET", "/containers/json", all="1")] == [["/one"]]
    engine.call("DELETE", "/images/built:two", force="1")


@pytest.mark.parametrize("damage", ["missing", "truncated", "another", "contradictory"])
@pytest.mark.parametrize("running", [True, False], ids=["while-running", "before-the-start"])
def test_an_image_that_cannot_be_read_hides_no_other(engine: Engine, damage: str, running: bool) -> None:
    for tag in ("good", "bad"):
        engine.import_busybox(tag)
        engine.cli("sampan", "create", "--name", tag, f"busybox:{tag}", "true")
    bad = engine.call("GET", "/images/busybox:bad/json")["Id"]
    if not running:
        engine.stop()
    (blob,) = engine.data_root.rglob(bad.removeprefix("sha256:"))
    match damage:
        case "missing":
            blob.unlink()
        case "truncated":
            blob.write_bytes(blob.read_bytes()[:100])
        case "another":
            blob.write_bytes(json.dumps({"architecture": 5}).encode())
        case "contradictory":
            config = json.loads(blob.read_bytes())
            config["rootfs"]["diff_ids"].append("sha256:" + "1" * 64)
            blob.write_bytes(json.dumps(config).encode())
    if not running:
        engine.start()
    shown = [name for image in engine.call("GET", "/images/json") for name in image["RepoTags"]]
    assert "busybox:good" in shown
    assert len(engine.call("GET", "/containers/json", all="1")) == 2
    for path in ("/system/df", "/info", "/images/busybox:good/json", "/containers/bad/json"):
        engine.call("GET", path)
    assert len(engine.request("GET", "/images/busybox:good/get").raw) > len(busybox.root_tar()) / 2
    engine.call("POST", "/images/prune", filters='{"dangling":["false"]}')
    engine.remove("bad")
    for name in ("busybox:bad", bad):
        answer = engine.request("DELETE", f"/images/{name}", force="1")
        assert answer.status in (200, 404), (name, answer.raw)
    engine.import_busybox("bad")
    assert engine.wait(engine.run("true", image="busybox:bad", name="again")) == 0
    for container in ("again", "good"):
        engine.remove(container)
    assert not [f for f in _findings(engine, repair=False) if f["Kind"] in ("image", "tag", "reference")]
