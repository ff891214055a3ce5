"""The tests' image: a root file system around the distribution's static busybox, as a tar."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from tests.support.tars import directory, member, symlink, tar

BUSYBOX = Path("/bin/busybox")
DIRECTORIES = ("bin", "etc", "tmp", "root", "proc", "sys", "dev", "var", "home", "usr/bin")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"


@cache
def root_tar() -> bytes:
    """Return the uncompressed tar of a busybox root: every applet is a symlink to /bin/busybox."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    return tar(
        *(directory(name, 0o1777 if name == "tmp" else 0o755) for name in DIRECTORIES),
        member("bin/busybox", BUSYBOX.read_bytes(), mode=0o755),
        member("etc/passwd", PASSWD.encode()),
        member("etc/group", GROUP.encode()),
        *(symlink(f"bin/{applet}", "busybox") for applet in applets if applet != "busybox"),
    )
