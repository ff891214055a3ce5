"""create, start, state, kill, delete, list, ps, pause: what OCI calls the lifecycle, and runc's command line
around it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conformance.runtime.driver import Runtime, until


def marker_spec(runtime: Runtime) -> tuple[dict, Path]:  # type: ignore[type-arg]
    shared = runtime.directory / "shared"
    shared.mkdir()
    spec = runtime.spec("sh", "-c", "echo started > /mnt/marker; sleep 1000")
    spec["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(shared), "options": ["bind", "rw"]})
    return spec, shared / "marker"


def test_a_created_container_waits_for_start(runtime: Runtime) -> None:
    spec, marker = marker_spec(runtime)
    spec["annotations"] = {"org.example.key": "value"}
    id = runtime.create(spec)
    state = runtime.state(id)
    assert state["status"] == "created"
    assert state["id"] == id
    assert state["bundle"] == str(runtime.directory / id)
    assert state["rootfs"] == str(runtime.rootfs)
    assert state["annotations"] == {"org.example.key": "value"}
    assert list(state) == ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]
    assert Path(f"/proc/{state['pid']}").is_dir()
    assert not marker.exists()
    runtime.ok("start", id)
    until(marker.exists)
    assert runtime.state(id)["status"] == "running"
    assert runtime.state(id)["pid"] == state["pid"]


def test_the_container_outlives_the_command_that_made_it(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    pid = runtime.state(id)["pid"]
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Name"] == "sleep"
    assert int(status["PPid"]) != os.getpid()


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", None), ("kill -TERM 1; exit 3", 3)]
)
def test_run_returns_the_status_of_the_process(runtime: Runtime, script: str, status: int | None) -> None:
    done = runtime.run(runtime.spec("sh", "-c", script))
    # As pid 1 of its namespace a process cannot kill itself: then it ends normally.
    assert done.returncode == (0 if status is None else status)
    assert json.loads(runtime.ok("list", "--format", "json")) is None


def test_run_says_128_and_the_signal(runtime: Runtime) -> None:
    id, bundle = runtime.bundle(runtime.spec())
    with subprocess.Popen([*runtime.command, "--root", str(runtime.root), "run", "-b", str(bundle), id]) as process:
        until(lambda: (runtime.root / id / "state.json").exists() and runtime.state(id)["status"] == "running")
        runtime.ok("kill", id, "KILL")
        assert process.wait(10) == 128 + signal.SIGKILL


def test_run_passes_signals_on(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    id, bundle = runtime.bundle(spec)
    command = [*runtime.command, "--root", str(runtime.root), "run", "-b", str(bundle), id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "got\n"
        assert process.wait(10) == 9


def test_standard_streams_are_the_callers(runtime: Runtime) -> None:
    id, bundle = runtime.bundle(runtime.spec("sh", "-c", "cat; echo oops >&2"))
    done = runtime("run", "-b", str(bundle), id, stdin="from outside")
    assert (done.stdout, done.stderr) == ("from outside", "oops\n")


def test_pid_file(runtime: Runtime) -> None:
    file = runtime.directory / "pid"
    id = runtime.create(runtime.spec(), "--pid-file", str(file))
    assert file.read_text() == str(runtime.state(id)["pid"])


def test_an_id_is_taken_once(runtime: Runtime) -> None:
    id = runtime.create(runtime.spec())
    bundle = runtime.directory / id
    assert (
        runtime.fails("create", "-b", str(bundle), id) == "runc create failed: container with given ID already exists"
    )
    assert runtime.fails("run", "-b", str(bundle), id) == "runc run failed: container with given ID already exists"


@pytest.mark.parametrize("id", ["bad/id", "../up", "sp ace", "..", "ü"])
def test_bad_ids_are_refused(runtime: Runtime, id: str) -> None:
    _, bundle = runtime.bundle(runtime.spec())
    assert runtime.fails("create", "-b", str(bundle), id) == "runc create failed: invalid container ID format"


@pytest.mark.parametrize("command", ["state", "start", "kill", "delete", "ps", "pause", "resume", "update", "events"])
def test_what_does_not_exist_is_named(runtime: Runtime, command: str) -> None:
    assert runtime.fails(command, "nobody") == "container does not exist"


def test_delete_force_of_nothing_is_fine(runtime: Runtime) -> None:
    runtime.ok("delete", "--force", "nobody")


def test_start_twice(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    assert runtime.fails("start", id) == "cannot start an already running container"


def test_a_stopped_container(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    runtime.ok("kill", id, "KILL")
    runtime.wait_for(id, "stopped")
    assert runtime.state(id)["pid"] == 0
    assert runtime.fails("start", id) == "cannot start a container that has stopped"
    assert runtime.fails("kill", id) == "container not running"
    assert runtime.fails("pause", id) == "container not running"
    assert runtime.fails("exec", id, "true", status=255) == "exec failed: cannot exec in a stopped container"
    assert runtime.fails("events", "--stats", id) == f"container with id {id} is not running"
    runtime.ok("delete", id)
    assert runtime.fails("state", id) == "container does not exist"


def test_delete_refuses_what_runs(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    pid = runtime.state(id)["pid"]
    assert runtime.fails("delete", id) == f"cannot delete container {id} that is not stopped: running"
    runtime.ok("delete", "--force", id)
    assert not Path(f"/proc/{pid}/root").exists()


def test_delete_of_a_created_container(runtime: Runtime) -> None:
    id = runtime.create(runtime.spec())
    pid = runtime.state(id)["pid"]
    runtime.ok("delete", id)
    until(lambda: not Path(f"/proc/{pid}/root").exists())


@pytest.mark.parametrize("name", ["TERM", "SIGTERM", "15", "sigterm"])
def test_kill_takes_names_and_numbers(runtime: Runtime, name: str) -> None:
    id = runtime.start(runtime.spec("sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.02; done"))
    until(lambda: "ready" in runtime.output.read_text())
    runtime.ok("kill", id, name)
    runtime.wait_for(id, "stopped")


def test_kill_refuses_unknown_signals(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    assert runtime.fails("kill", id, "BOGUS") == 'unknown signal "BOGUS"'
    assert runtime.fails("kill", id, "99") == "unable to signal init: invalid argument"


def test_kill_all(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "sleep 999 & sleep 998 & wait")
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts"}]
    id = runtime.start(spec)
    until(lambda: len(json.loads(runtime.ok("ps", "-f", "json", id))) == 3)
    pids = json.loads(runtime.ok("ps", "-f", "json", id))
    runtime.ok("kill", "--all", id, "KILL")
    until(lambda: not any(Path(f"/proc/{pid}/root").exists() for pid in pids))


def test_list(runtime: Runtime) -> None:
    runtime.root.mkdir()  # runc 1.3 wants it to be there, once it is named
    assert runtime.ok("list").split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert runtime.ok("list", "-q") == ""
    id = runtime.start(runtime.spec())
    state = runtime.state(id)
    (listed,) = json.loads(runtime.ok("list", "-f", "json"))
    assert listed == {**state, "owner": "root"}
    header, line = runtime.ok("list").splitlines()
    assert line.split() == [id, str(state["pid"]), "running", state["bundle"], state["created"], "root"]
    assert header.index("PID") == line.index(str(state["pid"]), len(id))
    assert runtime.ok("list", "--quiet") == id + "\n"
    assert runtime.fails("list", "-f", "xml") == "invalid format option"


def test_ps(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    pid = runtime.state(id)["pid"]
    assert json.loads(runtime.ok("ps", "--format", "json", id)) == [pid]
    assert runtime.ok("ps", id, "-o", "pid,args").splitlines()[1].split() == [str(pid), "sleep", "1000"]
    assert runtime.fails("ps", id, "-o", "comm") == "couldn't find PID field in ps output"


def test_pause_and_resume(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /tmp/i; done"))
    runtime.ok("pause", id)
    assert runtime.state(id)["status"] == "paused"
    pid = runtime.state(id)["pid"]
    counter = Path(f"/proc/{pid}/root/tmp/i")
    assert counter.read_text() == counter.read_text()
    assert runtime.fails("pause", id) == "container not running"
    refused = "exec failed: cannot exec in a paused container (use --ignore-paused to override)"
    assert runtime.fails("exec", id, "true", status=255) == refused
    assert runtime.fails("delete", id) == f"cannot delete container {id} that is not stopped: paused"
    runtime.ok("resume", id)
    assert runtime.state(id)["status"] == "running"
    assert runtime.fails("resume", id) == "container not paused"


def test_delete_force_of_a_paused_container(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    runtime.ok("pause", id)
    runtime.ok("delete", "-f", id)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("state",), 'requires exactly 1 argument(s)'),
        (("create", "a", "b"), 'requires exactly 1 argument(s)'),
        (("kill",), 'requires a minimum of 1 argument(s)'),
        (("kill", "a", "b", "c"), 'requires a maximum of 2 argument(s)'),
        (("create", "--bogus", "x"), "flag provided but not defined: -bogus"),
        (("create", "--bundle"), "flag needs an argument: -bundle"),
        (("create", "--preserve-fds", "x", "y"), 'invalid value "x" for flag -preserve-fds: parse error'),
        (("--log-format", "foo", "list"), "invalid log-format: foo"),
    ],
)  # fmt: skip
def test_wrong_usage(runtime: Runtime, arguments: tuple[str, ...], message: str) -> None:
    assert runtime.fails(*arguments).endswith(message)


def test_unknown_commands_end_with_3(runtime: Runtime) -> None:
    assert runtime.fails("frobnicate", status=3) == "No help topic for 'frobnicate'\n"


def test_errors_go_to_the_log_file_as_json(runtime: Runtime) -> None:
    log = runtime.directory / "log.json"
    done = runtime("--log", str(log), "--log-format", "json", "state", "nobody")
    assert (done.returncode, done.stderr) == (1, "container does not exist\n")
    entry = json.loads(log.read_text())
    assert (entry["level"], entry["msg"]) == ("error", "container does not exist")
    assert sorted(entry) == ["level", "msg", "time"]


def test_spec_writes_a_bundle_that_runs(runtime: Runtime) -> None:
    bundle = runtime.directory / "fresh"
    bundle.mkdir()
    runtime.ok("spec", "--bundle", str(bundle))
    assert runtime.fails("spec", "--bundle", str(bundle)) == "File config.json exists. Remove it first"
    spec = json.loads((bundle / "config.json").read_text())
    assert spec["process"]["terminal"] is True
    spec["process"].update(terminal=False, args=["/bin/echo", "it runs"])
    spec["root"]["path"] = str(runtime.rootfs)
    assert runtime.says(spec) == "it runs\n"


def test_features_document(runtime: Runtime) -> None:
    document = json.loads(runtime.ok("features"))
    assert document["ociVersionMin"] == "1.0.0"
    assert document["hooks"] == [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ]
    assert {"rbind", "nosuid", "rro", "rslave", "tmpcopyup"} <= set(document["mountOptions"])
    linux = document["linux"]
    assert {"cgroup", "ipc", "mount", "network", "pid", "user", "uts"} <= set(linux["namespaces"])
    assert "CAP_SYS_ADMIN" in linux["capabilities"]
    assert linux["cgroup"]["v1"] is linux["cgroup"]["v2"] is True
    assert "SCMP_ACT_NOTIFY" in linux["seccomp"]["actions"]


def test_version(runtime: Runtime) -> None:
    assert " version " in runtime.ok("--version").splitlines()[0]
