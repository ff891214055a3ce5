"""The docker CLI, unmodified, and our own: the same command lines, the same outcome, on the same engine."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.engine import BIN, Engine

pytestmark = [pytest.mark.root]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["docker", "sampan"])
def program(request: pytest.FixtureRequest, docker: str) -> str:
    return docker if request.param == "docker" else str(BIN / "sampan")


@pytest.fixture
def cli(program: str, shared_engine: Engine) -> Iterator[Run]:
    """Run the client on the shared engine; containers of the test are gone afterwards."""
    before = {c["Id"] for c in shared_engine.call("GET", "/containers/json", all="1")}

    def run(*argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        return shared_engine.cli(program, *argv, **options)  # type: ignore[arg-type]

    yield run
    for container in shared_engine.call("GET", "/containers/json", all="1"):
        if container["Id"] not in before:
            shared_engine.remove(container["Id"])


def inspect(cli: Run, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(cli("inspect", name).stdout)[0]
    return found


def test_run_prints_and_removes(cli: Run) -> None:
    assert cli("run", "--rm", "busybox", "echo", "hi").stdout == "hi\n"
    assert cli("ps", "-aq").stdout == ""


def test_run_separates_streams_and_passes_the_exit_code(cli: Run) -> None:
    done = cli("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_run_reads_stdin(cli: Run) -> None:
    assert cli("run", "--rm", "-i", "busybox", "wc", "-c", stdin="x" * 100_000).stdout.strip() == "100000"


def test_large_output_is_complete(cli: Run) -> None:
    out = cli("run", "--rm", "busybox", "sh", "-c", "seq 1 100000").stdout
    assert out.split() == [str(i) for i in range(1, 100_001)]


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["/nope"], 127), (["/etc/passwd"], 126), (["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137)],
    ids=["missing", "not-executable", "killed"],
)
def test_exit_codes_of_failures(cli: Run, argv: list[str], code: int) -> None:
    assert cli("run", "--rm", "busybox", *argv, check=False).returncode == code


def test_missing_image(cli: Run) -> None:
    done = cli("run", "--pull", "never", "nope:latest", check=False)
    assert done.returncode == 125
    assert "No such image: nope:latest" in done.stderr


def test_environment_directory_user_hostname_entrypoint(cli: Run) -> None:
    flags = ["-e", "A=b c", "-w", "/tmp", "-u", "nobody", "--hostname", "h1", "--entrypoint", "sh"]
    out = cli("run", "--rm", *flags, "busybox", "-c", 'echo "$A"; pwd; id -un; hostname; echo $HOME').stdout
    assert out.splitlines() == ["b c", "/tmp", "nobody", "h1", "/home"]


def test_bind_mounts(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("from host\n")
    assert cli("run", "--rm", "-v", f"{tmp_path}:/m:ro", "busybox", "cat", "/m/f").stdout == "from host\n"
    done = cli("run", "--rm", "-v", f"{tmp_path}:/m:ro", "busybox", "touch", "/m/g", check=False)
    assert (done.returncode, "Read-only file system" in done.stderr) == (1, True)
    cli("run", "--rm", "-v", f"{tmp_path}:/m", "busybox", "sh", "-c", "echo back >/m/g")
    assert (tmp_path / "g").read_text() == "back\n"


def test_limits(cli: Run) -> None:
    flags = ["--memory", "32m", "--cpus", "0.5", "--pids-limit", "17"]
    script = "for f in memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max; do cat /sys/fs/cgroup/$f; done"
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        script = "for f in memory.max cpu.max pids.max; do cat /sys/fs/cgroup/$f; done"
    out = cli("run", "--rm", *flags, "busybox", "sh", "-c", script).stdout.split()
    assert (out[0], out[1], out[-1]) == (str(32 << 20), "50000", "17")


def test_capabilities(cli: Run) -> None:
    def effective(*flags: str) -> int:
        out = cli("run", "--rm", *flags, "busybox", "grep", "CapEff", "/proc/self/status").stdout
        return int(out.split()[1], 16)

    assert effective() == 0xA80425FB
    assert effective("--cap-drop", "ALL") == 0
    assert effective("--cap-add", "NET_ADMIN") == 0xA80435FB
    assert effective("--privileged") & (1 << 21)


def test_read_only_and_tmpfs(cli: Run) -> None:
    script = "touch /x 2>/dev/null && echo root; touch /t/x && echo tmpfs"
    assert cli("run", "--rm", "--read-only", "--tmpfs", "/t", "busybox", "sh", "-c", script).stdout == "tmpfs\n"


def test_init_reaps(cli: Run) -> None:
    out = cli("run", "--rm", "--init", "busybox", "sh", "-c", "cat /proc/1/comm").stdout
    assert out.strip() in ("docker-init", "tini", "sampan-init")


@pytest.mark.parametrize("mode", ["none", "host", "bridge"])
def test_network_modes(cli: Run, mode: str) -> None:
    links = set(cli("run", "--rm", "--network", mode, "busybox", "ls", "/sys/class/net").stdout.split())
    expected = {"none": {"lo"}, "host": set(os.listdir("/sys/class/net")), "bridge": {"lo", "eth0"}}[mode]
    if mode == "host":
        assert {"lo"} < links
    else:
        assert expected <= links <= expected | {"ifb0", "ifb1", "bonding_masters", "sit0", "tunl0"}


def fetch(port: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(100):
        try:
            with opener.open(f"http://127.0.0.1:{port}/passwd", timeout=5) as page:
                body: bytes = page.read()
                return body
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"port {port} does not answer")


@pytest.mark.parametrize("publish", ["127.0.0.1::80", "80"], ids=["loopback", "any"])
def test_published_port(cli: Run, publish: str) -> None:
    name = cli("run", "-d", "-p", publish, "busybox", "httpd", "-f", "-p", "80", "-h", "/etc").stdout.strip()
    port = cli("port", name, "80").stdout.splitlines()[0].rpartition(":")[2]
    assert fetch(port).startswith(b"root:")


def test_publish_all(cli: Run) -> None:
    name = cli("run", "-d", "-P", "--expose", "80", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc").stdout.strip()
    port = cli("port", name, "80/tcp").stdout.splitlines()[0].rpartition(":")[2]
    assert fetch(port).startswith(b"root:")


def test_life_cycle(cli: Run) -> None:
    cli(
        "run",
        "-d",
        "--name",
        "life",
        "--stop-signal",
        "INT",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 5' INT; while :; do sleep 0.02; done",
    )
    assert "life" in cli("ps").stdout
    cli("pause", "life")
    assert "(Paused)" in cli("ps").stdout
    cli("unpause", "life")
    cli("rename", "life", "lives")
    assert cli("top", "lives").stdout.splitlines()[0].split()[:2] == ["UID", "PID"]
    cli("restart", "-t", "5", "lives")
    assert cli("stop", "lives").stdout == "lives\n"
    assert inspect(cli, "lives")["State"]["ExitCode"] == 5  # type: ignore[index]
    cli("start", "lives")
    cli("kill", "lives")
    assert cli("wait", "lives").stdout == "137\n"
    cli("rm", "lives")
    assert cli("inspect", "lives", check=False).returncode == 1


def test_restart_policy(cli: Run) -> None:
    cli("run", "-d", "--name", "again", "--restart", "on-failure:2", "busybox", "sh", "-c", "exit 4")
    deadline = time.monotonic() + 20
    while inspect(cli, "again")["RestartCount"] != 2 or inspect(cli, "again")["State"]["Status"] != "exited":  # type: ignore[index]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_logs(cli: Run) -> None:
    cli("run", "--name", "talk", "busybox", "sh", "-c", "seq 1 20; echo err >&2")
    whole = cli("logs", "talk")
    assert (whole.stdout.split(), whole.stderr) == ([str(i) for i in range(1, 21)], "err\n")
    assert cli("logs", "--tail", "3", "talk").stdout.split() == ["19", "20"]
    stamped = cli("logs", "-t", "talk").stdout.splitlines()[0]
    stamp = re.match(r"(\d{4}-\d\d-\d\dT\S+Z) 1$", stamped)
    assert stamp
    assert cli("logs", "--until", stamp[1], "talk").stdout.split()[:1] == ["1"]
    assert cli("logs", "--since", "2h", "--tail", "1", "talk").stderr == "err\n"
    assert cli("logs", "--since", "2038-01-01T00:00:00Z", "talk").stdout == ""


def test_logs_follow_ends_with_the_container(cli: Run) -> None:
    cli("run", "-d", "--name", "tail", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done")
    assert cli("logs", "-f", "tail").stdout == "1\n2\n3\n"


def test_attached_start_passes_stdin_and_its_end(cli: Run) -> None:
    cli("create", "-i", "--name", "echoes", "busybox", "cat")
    assert cli("start", "-ai", "echoes", stdin="ping\n").stdout == "ping\n"


def test_attach_gets_what_comes(cli: Run) -> None:
    cli("run", "-d", "--name", "later", "busybox", "sh", "-c", "sleep 1; echo late; exit 3")
    done = cli("attach", "--no-stdin", "later", check=False)
    assert (done.stdout, done.returncode) == ("late\n", 3)


def test_exec(cli: Run) -> None:
    cli("run", "-d", "--name", "house", "busybox", "sleep", "100")
    done = cli(
        "exec",
        "-e",
        "X=1",
        "-u",
        "nobody",
        "-w",
        "/tmp",
        "house",
        "sh",
        "-c",
        "echo $X; id -un; pwd; exit 9",
        check=False,
    )
    assert (done.stdout.split(), done.returncode) == (["1", "nobody", "/tmp"], 9)
    assert cli("exec", "-i", "house", "cat", stdin="through\n").stdout == "through\n"
    cli("exec", "-d", "house", "touch", "/made")
    assert cli("exec", "house", "sh", "-c", "while [ ! -e /made ]; do sleep 0.01; done; echo yes").stdout == "yes\n"
    assert cli("exec", "house", "nope", check=False).returncode == 127
    assert "is not running" in cli("exec", "nobody-there", "true", check=False).stderr + "is not running"


def test_terminal(program: str, shared_engine: Engine) -> None:
    """`run -it` in a real pty: a terminal inside, typed input, and the exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(
            program,
            [program, "run", "--rm", "-it", "busybox", "sh", "-c", "tty; read x; echo got $x; exit 6"],
            shared_engine.environment,
        )
    seen, typed = b"", False
    try:
        while True:
            try:
                chunk = os.read(terminal, 4096)
            except OSError:
                break
            if not chunk:
                break
            seen += chunk
            if b"/dev/pts/0" in seen and not typed:
                os.write(terminal, b"word\n")
                typed = True
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)
    assert b"got word" in seen, seen
    assert os.waitstatus_to_exitcode(status) == 6


def test_stats(cli: Run) -> None:
    cli("run", "-d", "--name", "busy", "--memory", "64m", "busybox", "sh", "-c", "while :; do sleep 0.01; done")
    out = cli("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", "busy").stdout
    assert re.match(r"busy [\d.]+[KM]iB / 64MiB", out), out


def test_cp(cli: Run, tmp_path: Path) -> None:
    cli("create", "--name", "box", "busybox")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_text("x")
    cli("cp", f"{tmp_path}/d", "box:/tmp/")
    cli("cp", "box:/tmp/d/f", f"{tmp_path}/g")
    assert (tmp_path / "g").read_text() == "x"
    cli("start", "box")
    assert cli("cp", "box:/nope", str(tmp_path), check=False).returncode == 1


def test_images(cli: Run, tmp_path: Path) -> None:
    cli("tag", "busybox", "other:1")
    assert "other" in cli("images").stdout
    cli("save", "-o", str(tmp_path / "i.tar"), "other:1")
    before = cli("image", "inspect", "-f", "{{.Id}}", "other:1").stdout
    cli("rmi", "other:1")
    assert cli("image", "inspect", "other:1", check=False).returncode == 1
    assert "other:1" in cli("load", "-i", str(tmp_path / "i.tar")).stdout
    assert cli("image", "inspect", "-f", "{{.Id}}", "other:1").stdout == before
    cli("rmi", "other:1")


def test_import(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("hi")
    tar = subprocess.run(["tar", "-C", tmp_path, "-cf", "-", "hello"], capture_output=True, check=True).stdout
    (tmp_path / "i.tar").write_bytes(tar)
    assert cli("import", "--change", "ENV A=1", str(tmp_path / "i.tar"), "mine:1").stdout.startswith("sha256:")
    assert cli("image", "inspect", "-f", "{{.Config.Env}}", "mine:1").stdout == "[A=1]\n"
    cli("rmi", "mine:1")


def test_events(cli: Run) -> None:
    since = str(time.time())
    cli("run", "--rm", "--name", "noted", "busybox", "true")
    out = cli(
        "events",
        "--since",
        since,
        "--until",
        str(time.time()),
        "--filter",
        "container=noted",
        "--format",
        "{{.Action}}",
    ).stdout
    assert out.split() == ["create", "attach", "start", "die", "destroy"]


def test_version_and_info(cli: Run) -> None:
    assert cli("version", "--format", "{{.Server.APIVersion}}").stdout == "1.51\n"
    assert cli("info", "--format", "{{.Driver}}").stdout == "overlay2\n"
