"""Build an image, serve a page from a container, fetch it through a published port, and clear up: `make demo`.

It is no test. It prints each command as a user would type it, what the command printed, and the milliseconds it took.
The engine is its own, on a scratch directory; nothing is left on the machine, also when a step fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

BIN = Path(sys.executable).parent
BUSYBOX = "/bin/busybox"
PAGE = "<h1>hello from a container</h1>\n"
DOCKERFILE = """\
FROM busybox AS pages
COPY pages /pages
RUN --mount=type=cache,target=/cache sort /pages/words > /cache/sorted && wc -l < /cache/sorted > /pages/count

FROM busybox
COPY --from=pages /pages /www
WORKDIR /www
EXPOSE 80
HEALTHCHECK CMD wget -q -O /dev/null http://127.0.0.1/
CMD ["httpd", "-f", "-v", "-p", "80", "-h", "/www"]
"""


class Demo:
    """One engine on a scratch directory and the steps a user would take."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sampan-demo-"))
        self.socket = self.directory / "sampan.sock"
        self.environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.directory / "client"),
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.daemon: subprocess.Popen[bytes] | None = None
        self.began = time.perf_counter()

    def start_engine(self) -> None:
        """Start sampand and wait until it answers."""
        config = self.directory / "daemon.json"
        config.write_text("{}")
        flags = [
            "--data-root",
            f"{self.directory}/data",
            "--exec-root",
            f"{self.directory}/run",
            "--pidfile",
            f"{self.directory}/pid",
        ]
        argv = [str(BIN / "sampand"), "--config-file", str(config), *flags, "-H", f"unix://{self.socket}"]
        print(f"\n$ sampand {' '.join(argv[3:])} &")
        began = time.perf_counter()
        with (self.directory / "sampand.log").open("wb") as log:
            self.daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment)
        while not self.answers():
            if self.daemon.poll() is not None or time.perf_counter() - began > 30:
                sys.exit((self.directory / "sampand.log").read_text())
            time.sleep(0.01)
        self.took(began)

    def answers(self) -> bool:
        return self.socket.exists() and self.quiet("version", "--format", "{{.Server.Version}}").returncode == 0

    def quiet(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "sampan", *argv], capture_output=True, text=True, env=self.environment, check=False
        )

    def step(self, *argv: str, shows: int = 20) -> str:
        """Run one `sampan` command, print it with its output and time; a failure ends the demo."""
        print(f"\n$ sampan {' '.join(repr(a) if ' ' in a else a for a in argv)}")
        began = time.perf_counter()
        done = self.quiet(*argv)
        for line in (done.stdout + done.stderr).splitlines()[:shows]:
            print(f"  {line}")
        self.took(began)
        if done.returncode:
            raise SystemExit(f"demo: the command failed with exit code {done.returncode}")
        return done.stdout.strip()

    @staticmethod
    def took(began: float) -> None:
        print(f"  [{(time.perf_counter() - began) * 1e3:.0f} ms]")

    def image(self) -> Path:
        """Make the root file system of busybox:latest as a tar: the distribution's static busybox."""
        root = self.directory / "root"
        for name in ("bin", "etc", "tmp", "root"):
            (root / name).mkdir(parents=True)
        shutil.copy2(BUSYBOX, root / "bin/busybox")
        for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        tar = self.directory / "busybox.tar"
        subprocess.run(["tar", "--owner=0", "--group=0", "-C", root, "-cf", tar, "."], check=True)
        return tar

    def context(self) -> Path:
        """A directory to build from: a Dockerfile and the pages to serve."""
        directory = self.directory / "web"
        (directory / "pages").mkdir(parents=True)
        (directory / "pages/index.html").write_text(PAGE)
        (directory / "pages/words").write_text("stern\nbow\nmast\n")
        (directory / "Dockerfile").write_text(DOCKERFILE)
        return directory

    def fetch(self, port: str) -> None:
        print(f"\n$ curl http://127.0.0.1:{port}/")
        began = time.perf_counter()
        deadline = began + 5
        while True:
            try:
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                page = opener.open(f"http://127.0.0.1:{port}/", timeout=5).read().decode()
                break
            except OSError:
                if time.perf_counter() > deadline:
                    raise
                time.sleep(0.01)
        print(f"  {page.strip()}")
        self.took(began)
        assert page == PAGE, page

    def play(self) -> None:
        print("A container from nothing to gone, on an engine of its own in", self.directory)
        self.start_engine()
        self.step("import", "--change", 'CMD ["/bin/sh"]', str(self.image()), "busybox:latest")
        self.step("images")
        self.step("run", "--rm", "busybox", "echo", "hi")
        directory = self.context()
        print("".join(f"\n  {line}" for line in ("$ cat Dockerfile", *DOCKERFILE.splitlines())))
        self.step("build", "-t", "web", str(directory), shows=60)
        self.step("build", "-q", "-t", "web", str(directory))
        self.step("run", "-d", "--init", "--name", "web", "-p", "127.0.0.1::80", "web")
        port = self.step("port", "web", "80").splitlines()[0].rpartition(":")[2]
        self.fetch(port)
        self.step("ps")
        self.step("logs", "web")
        self.step("exec", "web", "ps", "-o", "pid,args")
        self.step("stats", "--no-stream", "web")
        self.step("stop", "web")
        self.step("ps", "-a")
        self.step("rm", "web")
        print(f"\nAll of it: {time.perf_counter() - self.began:.1f} s. Nothing is left on the machine.")

    def close(self) -> None:
        """Remove the containers and stop the engine: the supervisor goes with it when no task is left."""
        if self.daemon is not None and self.daemon.poll() is None:
            containers = self.quiet("ps", "-aq").stdout.split()
            if containers:
                self.quiet("rm", "-f", "-v", *containers)
            self.daemon.terminate()
            self.daemon.wait(30)
        shutil.rmtree(self.directory, ignore_errors=True)


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("demo: needs root, as an engine does")
    demo = Demo()
    try:
        demo.play()
    finally:
        demo.close()


if __name__ == "__main__":
    main()
