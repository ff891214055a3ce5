"""A new volume is filled with what the image has at its place: by the real docker client, on overlay2."""

from __future__ import annotations

import pytest

from tests.compat.test_clients import Run, cli, program
from tests.support.engine import Engine

pytestmark = [pytest.mark.root]

__all__ = ["cli", "program"]  # fixtures

WRITE = """
mkdir -p /etc/conf.d /etc/opt; echo one > /etc/conf.d/one; ln /etc/conf.d/one /etc/conf.d/two; ln -s conf.d/one /etc/at
dd if=/dev/urandom of=/etc/large bs=1024 count=3000 2>/dev/null; chown 12:34 /etc/large; chmod 640 /etc/large
dd if=/dev/zero of=/etc/holes bs=1 count=1 seek=20000000 2>/dev/null; touch -d '2001-02-03 04:05:06' /etc/conf.d/one
"""
LOOK = (
    "cd /etc; find . -type f -o -type l | grep -v -e hosts -e hostname -e resolv.conf | sort | xargs ls -ln;"
    " sha256sum large"
)


def test_a_volume_over_a_directory_of_the_image_has_its_files(cli: Run, shared_engine: Engine) -> None:
    assert cli("info", "-f", "{{.Driver}}").stdout.strip() == "overlay2"
    cli("run", "--name", "writer", "busybox", "sh", "-ec", WRITE)
    cli("commit", "writer", "written")
    try:
        expected = cli("run", "--rm", "written", "sh", "-c", LOOK).stdout
        assert "large" in expected and "20000001" in expected
        assert cli("run", "--rm", "-v", "fresh:/etc", "busybox", "cat", "/etc/group").stdout.startswith("root:x:0:")
        assert cli("run", "--rm", "-v", "full:/etc", "written", "sh", "-c", LOOK).stdout == expected
        assert cli("run", "--rm", "-v", "full:/data", "busybox", "ls", "/data/opt").stdout == ""
    finally:
        cli("rm", "-f", "writer", check=False)
        cli("rmi", "written", check=False)
        cli("volume", "rm", "-f", "fresh", "full", check=False)
