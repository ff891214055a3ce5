"""The disk comes back: `system df` is what `du` says, `system fsck` finds what is left over and lost, a budget
is kept.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lacks
from tests.kernel.images.archives import archive, member
from tests.support.engine import Engine, until

pytestmark = pytest.mark.root


def du_bytes(path: Path) -> int:
    """What `du` says; it is asked again when something vanished under it: trash is emptied at any time."""
    said: list[int] = []

    def asked() -> bool:
        done = subprocess.run(["du", "-s", "-B1", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(int(done.stdout.split()[0]))
        return True

    until(asked, 10, "du reads the whole tree")
    return said[-1]


def imported(engine: Engine, name: str, megabytes: int) -> str:
    data = archive(member(name, os.urandom(megabytes << 20)))
    answer = engine.request("POST", "/images/create", data, fromSrc="-", repo=name)
    assert answer.status == 200 and b"errorDetail" not in answer.raw, answer.raw
    return str(json.loads(answer.raw.splitlines()[-1])["status"])


def fsck(engine: Engine, *, repair: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = engine.call("POST", "/system/fsck", repair=int(repair))["Findings"]
    return found


def test_df_adds_up_to_what_du_says_of_the_data_root(engine: Engine) -> None:
    imported(engine, "big", 20)
    engine.call("POST", "/volumes/create", {"Name": "vol"})
    script = (
        "dd if=/dev/urandom of=/layer bs=64k count=80; dd if=/dev/urandom of=/v/f bs=64k count=100;"
        "dd if=/dev/zero of=/v/sparse bs=1 count=1 seek=1000000000; i=0; while [ $i -lt 20000 ]; do"
        " echo 'a line of a log that grows and grows and is a part of what a container takes'; i=$((i+1)); done"
    )
    first = engine.run("sh", "-c", script, Binds=["vol:/v"])
    second = engine.run("sh", "-c", "dd if=/dev/urandom of=/x bs=64k count=50")
    assert engine.wait(first) == 0 and engine.wait(second) == 0
    engine.call("POST", "/commit", {}, container=second, repo="made")

    def adds_up() -> bool:
        df = engine.call("GET", "/system/df")
        ours = df["DataRoot"]
        shown = df["LayersSize"] + sum(c["SizeRw"] for c in df["Containers"])
        shown += sum(v["UsageData"]["Size"] for v in df["Volumes"]) + ours["Builder"] + ours["Trash"] + ours["Engine"]
        assert shown == ours["Total"]
        assert ours["Logs"] > 2 << 20 and df["Volumes"][0]["UsageData"]["Size"] < 8 << 20, "a sparse file is small"
        sizes = {c["Id"]: c["SizeRw"] for c in df["Containers"]}
        assert sizes[first] > (5 << 20) + ours["Logs"] * 0.9 and (3 << 20) < sizes[second] < 4 << 20
        said = du_bytes(engine.data_root)
        assert abs(shown - said) <= said / 100, (shown, said, ours)
        return True

    assert adds_up()
    shown = engine.cli("sampan", "system", "df", "-v").stdout.partition("Data root:")[2]
    assert str(engine.data_root) in shown and "Trash" in shown and "of it logs" in shown
    engine.call("DELETE", "/images/big")
    engine.remove(first)
    left = engine.call("GET", "/system/df")["DataRoot"]
    said = du_bytes(engine.data_root)
    assert left["Total"] <= said * 1.01 + left["Trash"], "what is in the trash is on its way"
    until(lambda: not os.listdir(engine.data_root / "trash"), 10, "the trash is empty")
    left = engine.call("GET", "/system/df")["DataRoot"]
    said = du_bytes(engine.data_root)
    assert left["Trash"] <= 8192 and abs(left["Total"] - said) <= said / 100, (left, said)


def test_fsck_of_a_sound_engine_finds_nothing_also_while_it_works(engine: Engine) -> None:
    imported(engine, "a", 1)
    done = engine.run("true")
    engine.wait(done)
    running = engine.run("sleep", "60", Binds=["vol:/v"])
    assert fsck(engine) == []
    script = f"for i in 1 2 3 4 5 6; do docker -H {engine.host} run --rm -v /data busybox true || exit 1; done"
    found = []
    with subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL) as worker:
        while worker.poll() is None:
            found += fsck(engine, repair=True)
    assert found == [] and worker.returncode == 0, "a repair took nothing that was in use"
    assert engine.inspect(running)["State"]["Running"]


def test_fsck_reaps_what_nobody_needs_and_names_what_is_lost(engine: Engine) -> None:
    imported(engine, "lost", 1)
    container = engine.run("true")
    engine.wait(container)
    engine.call("POST", "/volumes/create", {"Name": "gone"})
    root = engine.data_root
    # left over
    (root / "snapshots/900/fs").mkdir(parents=True)
    (root / "snapshots/900/fs/file").write_bytes(bytes(100_000))
    (root / "content/blobs/sha256" / ("e" * 64)).write_bytes(b"stray")
    (root / "containers" / ("d" * 64)).mkdir()
    (root / "volumes/empty/_data").mkdir(parents=True)
    (root / "volumes/full/_data").mkdir(parents=True)
    (root / "volumes/full/_data/precious").write_text("only copy")
    # lost
    config = engine.call("GET", "/images/lost/json")
    layer = Path(config["GraphDriver"]["Data"]["UpperDir"]).parent
    layer.rename(root / "elsewhere")
    (root / "volumes/gone").rename(root / "volume-elsewhere")
    (root / "containers" / container).rename(root / "container-elsewhere")

    def by_kind(found: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
        return {(f["Kind"], f["ID"], f["Problem"]) for f in found}

    left_over = {
        ("snapshot", "900", "unreferenced"),
        ("blob", f"sha256:{'e' * 64}", "unreferenced"),
        ("container", "d" * 64, "unreferenced"),
        ("volume", "empty", "unreferenced"),
    }
    lost = {
        ("volume", "full", "unreferenced"),
        ("layer", config["RootFS"]["Layers"][0], "missing"),
        ("volume", "gone", "missing"),
        ("container", container, "missing"),
    }
    found = fsck(engine)
    assert by_kind(found) == left_over | lost
    assert next(f for f in found if f["ID"] == "900")["SizeBytes"] > 100_000
    assert not any(f["Repaired"] for f in found) and (root / "snapshots/900/fs/file").exists(), "it only looked"

    listed = engine.cli("sampan", "system", "fsck", check=False)
    assert listed.returncode == 1 and "yours to mend" in listed.stdout and "repairable" in listed.stdout
    found = fsck(engine, repair=True)
    assert {(f["Kind"], f["ID"], f["Problem"]) for f in found if f["Repaired"]} == left_over
    assert by_kind(fsck(engine)) == lost
    assert (root / "volumes/full/_data/precious").read_text() == "only copy"
    assert not (root / "snapshots/900").exists() and not (root / "volumes/empty").exists()
    engine.call("POST", "/volumes/create", {"Name": "full"})
    (root / "elsewhere").rename(layer)
    (root / "volume-elsewhere").rename(root / "volumes/gone")
    (root / "container-elsewhere").rename(root / "containers" / container)
    assert fsck(engine) == []
    assert engine.cli("sampan", "system", "fsck", "--repair").stdout == "No problems found.\n"


def test_a_damaged_configuration_is_named(engine: Engine) -> None:
    id = imported(engine, "damaged", 1)
    path = engine.data_root / "content/blobs/sha256" / id.removeprefix("sha256:")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b" ")
    [finding] = fsck(engine, repair=True)
    assert (finding["Kind"], finding["ID"], finding["Problem"], finding["Repaired"]) == ("image", id, "damaged", False)
    path.write_bytes(whole)
    assert fsck(engine) == []


def test_a_damaged_layer_is_found_when_all_are_read(engine: Engine) -> None:
    imported(engine, "rotten", 1)
    assert engine.call("POST", "/system/fsck", verify=1)["Findings"] == []
    layer = Path(engine.call("GET", "/images/rotten/json")["GraphDriver"]["Data"]["UpperDir"])
    with (layer / "rotten").open("r+b") as file:
        file.write(b"\0" * 16)
    assert fsck(engine) == [], "nothing is missing"
    [finding] = engine.call("POST", "/system/fsck", verify=1, repair=1)["Findings"]
    assert (finding["Kind"], finding["Problem"], finding["Repaired"]) == ("layer", "damaged", False)
    assert "is damaged" in finding["Remedy"]
    shown = engine.cli("sampan", "system", "fsck", "--verify", check=False)
    assert shown.returncode == 1 and "damaged" in shown.stdout


def test_the_disk_budget_takes_the_longest_unused_images() -> None:
    engine = Engine(None, "--disk-budget", "60m").start()
    try:
        engine.import_busybox()
        used = imported(engine, "used", 15)
        old = imported(engine, "old", 15)
        young = imported(engine, "young", 15)
        container = engine.call("POST", "/containers/create", {"Image": "used", "Cmd": ["x"]})["Id"]
        names = {tag for image in engine.call("GET", "/images/json") for tag in image["RepoTags"]}
        assert {"used:latest", "old:latest", "young:latest", "busybox:latest"} == names, "it all fits"
        newest = imported(engine, "newest", 20)

        def kept() -> set[str]:
            return {image["Id"] for image in engine.call("GET", "/images/json")}

        until(lambda: old not in kept(), 10, "the budget is kept")
        assert {used, young, newest} <= kept() or {used, newest} <= kept()
        assert used in kept(), "a container uses it, however old it is"
        assert young in kept(), "no more than needed"
        engine.remove(container)
    finally:
        engine.close()


def test_what_cannot_be_deleted_is_named_and_tried_again(engine: Engine) -> None:
    container = engine.run("sh", "-c", "echo 1 > /stubborn")
    engine.wait(container)
    upper = Path(engine.inspect(container)["GraphDriver"]["Data"]["UpperDir"])
    if subprocess.run(["chattr", "+i", str(upper / "stubborn")], capture_output=True, check=False).returncode:
        lacks("the file system of the test has no immutable files")
    trash = engine.data_root / "trash"
    engine.remove(container)
    try:
        until(lambda: any(f["Kind"] == "trash" for f in fsck(engine)), 10, "it is named")
        [finding] = fsck(engine, repair=True)
        assert finding["Problem"] == "unreferenced" and "not permitted" in finding["Remedy"]
        assert not finding["Repaired"] and finding["SizeBytes"] > 0
        assert engine.call("GET", "/system/df")["DataRoot"]["Trash"] > 4096
    finally:
        for path in trash.rglob("stubborn"):
            subprocess.run(["chattr", "-i", str(path)], check=True)
    until(lambda: fsck(engine, repair=True) == [], 10, "the next repair takes it")
    until(lambda: not os.listdir(trash), 10, "the trash is empty")
