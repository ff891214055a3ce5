"""`sampan manifest annotate`."""

from __future__ import annotations

from sampan.cli.manifest import lists
from sampan.cli.manifest.lists import Lists
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] MANIFEST_LIST MANIFEST"
ARGS = (2, 2)
FLAGS = """
      --arch string           Architecture
      --os string             Operating system
      --os-features strings   Features of the operating system
      --os-version string     Version of the operating system
      --variant string        Variant of the architecture
"""
KNOWN = {
    "darwin": "386 amd64 arm arm64",
    "dragonfly": "amd64",
    "freebsd": "386 amd64 arm",
    "linux": "386 amd64 arm arm64 ppc64le mips64 mips64le riscv64 s390x",
    "netbsd": "386 amd64 arm",
    "openbsd": "386 amd64 arm",
    "plan9": "386 amd64",
    "solaris": "amd64",
    "windows": "386 amd64 arm arm64",
}


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    target = lists.named(args[0], f"annotate: error parsing name for manifest list {args[0]}")
    name = lists.named(args[1], f"annotate: error parsing name for manifest {args[1]}")
    mine = Lists(cli)
    document = mine.get(target, name)
    if document is None:
        raise CommandError(f"manifest for image {args[1]} does not exist in {args[0]}")
    platform = dict(document["Descriptor"].get("platform") or {})
    for flag, key in (("os", "os"), ("arch", "architecture"), ("variant", "variant"), ("os-version", "os.version")):
        if opts.text(flag):
            platform[key] = opts.text(flag)
    features = list(platform.get("os.features") or [])
    features += [feature for feature in opts.many("os-features") if feature not in features]
    if features:
        platform["os.features"] = features
    system, architecture = platform.get("os", ""), platform.get("architecture", "")
    if architecture not in KNOWN.get(system, "").split():
        raise CommandError(f"manifest entry for image has unsupported os/arch combination: {system}/{architecture}")
    document["Descriptor"]["platform"] = lists.ordered(platform)
    mine.put(target, name, document)
    return 0
