"""Generate the protobuf and grpclib modules from supervisor.proto: `python -m sampan.supervisor.generate`.

Needs grpcio-tools and mypy-protobuf (dev).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROTO = "sampan/supervisor/supervisor.proto"


def main() -> None:
    """Write supervisor_pb2.py, supervisor_pb2.pyi and supervisor_grpc.py beside the .proto."""
    source = Path(__file__).resolve().parents[2]
    plugins = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--plugin=protoc-gen-grpclib_python={plugins}/protoc-gen-grpclib_python",
            f"--plugin=protoc-gen-mypy={plugins}/protoc-gen-mypy",
            f"-I{source}",
            f"--python_out={source}",
            f"--grpclib_python_out={source}",
            f"--mypy_out={source}",
            PROTO,
        ],
        check=True,
    )


if __name__ == "__main__":
    main()
