"""sampand with one more storage driver in its table."""

from __future__ import annotations

import sys

from sampan.daemon.main import main
from sampan.engine.layers.snapshots.table import DRIVERS
from tests.support.storage_driver import TestCopies

DRIVERS[TestCopies.name] = TestCopies

if __name__ == "__main__":
    sys.exit(main())
