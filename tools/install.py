"""Install what `make setup` has made for a checkout as a program of its own, or remove it again.

    PREFIX/lib/sampan/            a virtual environment: this package and what it needs to run, nothing for development
    PREFIX/bin/sampan…            links to its programs
    UNIT_DIRECTORY/sampan.*       systemd units that name those programs

Nothing is downloaded: the packages are copied from the environment that runs this file. DESTDIR stands before every
path that is written and in none that is written into a file, so that packages can be made of it.

    .venv/bin/python tools/install.py [--uninstall]      with PREFIX, DESTDIR and UNIT_DIRECTORY in the environment
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
UNITS = CHECKOUT / "packaging" / "systemd"
UNIT_PREFIX = "/usr/local"
"""Where the units of the checkout look for the programs."""
LAUNCHER = """#!{python} -{flags}
import sys

sys.path.append({packages!r})
from {module} import {function}

sys.exit({function}())
"""


class Layout:
    """Where everything goes, as the installed system sees it; `placed` is where it is written now."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.prefix = Path(environment.get("PREFIX") or UNIT_PREFIX)
        self.destination = environment.get("DESTDIR", "")
        self.home = self.prefix / "lib" / "sampan"
        self.packages = self.home / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
        self.programs = self.prefix / "bin"
        in_path = str(self.prefix) in ("/usr", "/usr/local")
        default = self.prefix / "lib" / "systemd" / "system" if in_path else Path("/etc/systemd/system")
        self.units = Path(environment.get("UNIT_DIRECTORY") or default)

    def placed(self, path: Path) -> Path:
        return Path(f"{self.destination}{path}")


def project() -> dict[str, object]:
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        table: dict[str, object] = tomllib.load(file)["project"]
    return table


def needed(requirements: list[str]) -> list[metadata.Distribution]:
    """Return the distributions that requirements name, and what those need, each once."""
    found: dict[str, metadata.Distribution] = {}
    todo = [text for text in requirements if "extra ==" not in text]
    while todo:
        name = re.match(r"[A-Za-z0-9._-]+", todo.pop())
        assert name is not None
        key = re.sub(r"[-_.]+", "-", name[0]).lower()
        if key in found:
            continue
        try:
            found[key] = metadata.distribution(key)
        except metadata.PackageNotFoundError:
            continue  # needed on another system or Python only: `make setup` has resolved that
        todo += [text for text in found[key].requires or () if "extra ==" not in text]
    return list(found.values())


def install(layout: Layout) -> None:
    uninstall(layout)
    home, packages = layout.placed(layout.home), layout.placed(layout.packages)
    base = Path(sys.base_prefix) / "bin" / f"python{sysconfig.get_python_version()}"
    subprocess.run([base, "-m", "venv", "--without-pip", home], check=True)
    about = project()
    requirements, scripts = about["dependencies"], about["scripts"]
    assert isinstance(requirements, list)
    assert isinstance(scripts, dict)
    for distribution in needed(requirements):
        for file in distribution.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(distribution.locate_file(file)), target)
    shutil.copytree(CHECKOUT / "src" / "sampan", packages / "sampan", ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(packages, quiet=2, stripdir=layout.destination or None)
    layout.placed(layout.programs).mkdir(parents=True, exist_ok=True)
    for name, entry in scripts.items():
        module, function = entry.split(":")
        program = home / "bin" / name
        # The client needs the standard library and this package only: without `site` it starts in half the time.
        program.write_text(
            LAUNCHER.format(
                python=layout.home / "bin" / "python",
                flags="IS" if name == "sampan" else "I",
                packages=str(layout.packages),
                module=module,
                function=function,
            )
        )
        program.chmod(0o755)
        layout.placed(layout.programs / name).symlink_to(layout.home / "bin" / name)
    layout.placed(layout.units).mkdir(parents=True, exist_ok=True)
    for unit in unit_files():
        text = unit.read_text().replace(f"{UNIT_PREFIX}/bin/", f"{layout.programs}/")
        layout.placed(layout.units / unit.name).write_text(text)


def uninstall(layout: Layout) -> None:
    """Remove the programs and units; configuration, images, containers and volumes stay."""
    scripts = project()["scripts"]
    assert isinstance(scripts, dict)
    links = [layout.placed(layout.programs / name) for name in scripts]
    for path in (*links, *(layout.placed(layout.units / unit.name) for unit in unit_files())):
        path.unlink(missing_ok=True)
    home = layout.placed(layout.home)
    if home.exists():
        shutil.rmtree(home)


def unit_files() -> list[Path]:
    return sorted(path for path in UNITS.iterdir() if path.is_file())


def main() -> None:
    os.umask(0o022)
    layout = Layout(dict(os.environ))
    if "--uninstall" in sys.argv[1:]:
        uninstall(layout)
        return
    install(layout)
    sys.stdout.write(
        f"Installed in {layout.home}, the programs in {layout.programs}, the units in {layout.units}.\n"
        "Next: systemctl daemon-reload && systemctl enable --now sampan.socket sampan.service\n"
    )


if __name__ == "__main__":
    main()
