"""`python -m deltacompose.engine.torchrun package.module:name SPEC.json`: one of several processes under torchrun.

The first process that fails writes its exception next to the spec and ends at once. It writes before anything is
closed, because closing makes the other processes fail too, and it ends at once because others may wait for it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from deltacompose.engine.executor import FAILURE, answer, follow

if __name__ == "__main__":
    follow(os.getppid())
    file = Path(sys.argv[2])
    result = answer(sys.argv[1], json.loads(file.read_bytes()))
    if "error" in result:
        with suppress(FileExistsError), file.with_name(FAILURE).open("x") as first:
            json.dump(result, first)
        print(result["error"]["trace"], file=sys.stderr, flush=True)
        os._exit(1)
