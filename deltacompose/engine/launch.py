"""`python -m deltacompose.engine.launch package.module:name SPEC.json`: one of several processes under torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from deltacompose.engine.executor import call, follow

if __name__ == "__main__":
    follow(os.getppid())
    call(sys.argv[1], json.loads(Path(sys.argv[2]).read_bytes()))
