"""Generate the protobuf and grpclib modules of protos/ and spec/buildkit/.

Usage: `python -m sampan.engine.builder.buildkit.generate`.

Needs grpcio-tools and mypy-protobuf (dev).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Write NAME_pb2.py, NAME_pb2.pyi and, where a service is served, NAME_grpc.py beside each .proto."""
    here = Path(__file__).resolve().parent
    source = here.parents[3]
    plugins = Path(sys.executable).parent
    for proto in sorted([*(here / "protos").glob("*.proto"), *(source / "sampan/spec/buildkit").glob("*.proto")]):
        services = "service " in proto.read_text()
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--plugin=protoc-gen-grpclib_python={plugins}/protoc-gen-grpclib_python",
                f"--plugin=protoc-gen-mypy={plugins}/protoc-gen-mypy",
                f"-I{source}",
                f"--python_out={source}",
                f"--mypy_out={source}",
                *([f"--grpclib_python_out={source}"] if services else []),
                str(proto.relative_to(source)),
            ],
            check=True,
            cwd=source,
        )


if __name__ == "__main__":
    main()
