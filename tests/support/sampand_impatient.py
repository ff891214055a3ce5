"""sampand that waits less for plugins, so that tests of those that hang or are away are short."""

from __future__ import annotations

import sys

from sampan.daemon.main import main
from sampan.engine.plugins.plugins import Plugins

assert Plugins.__init__.__kwdefaults__ is not None
Plugins.__init__.__kwdefaults__.update(answer_s=2.0, patience_s=0.3)

if __name__ == "__main__":
    sys.exit(main())
