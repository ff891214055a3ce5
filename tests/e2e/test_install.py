"""`make install` puts the programs where the systemd units look, and `make uninstall` leaves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAMS = ("sampan", "sampan-runc", "sampan-supervisor", "sampand")


def make(target: str, **variables: str) -> None:
    settings = [f"{name}={value}" for name, value in variables.items()]
    subprocess.run(
        ["make", "-C", CHECKOUT, "--silent", target, *settings], check=True, timeout=300, capture_output=True
    )


def said(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_the_units_verify_where_they_are_installed(tmp_path: Path) -> None:
    make("install", DESTDIR=str(tmp_path))
    units = tmp_path / "usr/local/lib/systemd/system"
    program = tmp_path / "usr/local/bin/sampand"
    service = (units / "sampan.service").read_text()
    assert "ExecStart=/usr/local/bin/sampand -H fd://" in service
    assert os.readlink(program) == "/usr/local/lib/sampan/bin/sampand"
    # systemd-analyze wants the program itself, which stands below DESTDIR here: it is given in a copy of the units.
    copy = tmp_path / "verified"
    copy.mkdir()
    real = tmp_path / "usr/local/lib/sampan/bin/sampand"
    for unit in ("sampan.service", "sampan.socket"):
        (copy / unit).write_text((units / unit).read_text().replace("/usr/local/bin/sampand", str(real)))
    done = subprocess.run(
        ["systemd-analyze", "verify", copy / "sampan.service", copy / "sampan.socket"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    make("uninstall", DESTDIR=str(tmp_path))
    assert [path for path in (tmp_path / "usr").rglob("*") if not path.is_dir()] == []
    assert not (tmp_path / "usr/local/lib/sampan").exists()


def test_the_programs_run_without_the_checkout(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    make("install", PREFIX=str(prefix), UNIT_DIRECTORY=str(tmp_path / "units"))
    assert f"ExecStart={prefix}/bin/sampand" in (tmp_path / "units" / "sampan.service").read_text()
    assert sorted(os.listdir(prefix / "bin")) == list(PROGRAMS)
    written = [path for path in prefix.rglob("*") if path.is_file() and str(CHECKOUT).encode() in path.read_bytes()]
    assert written == []
    assert said(prefix / "bin/sampan", "--version").startswith("Sampan version ")
    assert "Usage" in said(prefix / "bin/sampand", "--help")
    assert "runc" in said(prefix / "bin/sampan-runc", "--version")
    make("uninstall", PREFIX=str(prefix), UNIT_DIRECTORY=str(tmp_path / "units"))
    assert os.listdir(prefix / "bin") == [] and os.listdir(tmp_path / "units") == []
