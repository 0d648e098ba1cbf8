"""`python -m deltacompose.engine.launch package.module:name SPEC.json`: one of several processes under torchrun."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from deltacompose.engine.executor import ANSWER, answer, follow

if __name__ == "__main__":
    follow(os.getppid())
    file = Path(sys.argv[2])
    said = answer(sys.argv[1], json.loads(file.read_bytes()))
    if "error" in said:
        own = file.with_name(f"{ANSWER}.{os.getpid()}")
        own.write_text(json.dumps(said))
        with suppress(FileExistsError):  # that another process has failed before is why this one has, then
            os.link(own, file.with_name(ANSWER))
        sys.exit(said["error"]["trace"])
