"""Run by the worker's tests: the command line, where the run judges no mapping before its worker has judged one.

Without the environment variable WAIT, it waits for nobody.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bertcompress import cli
from bertcompress.compressors.layer_mapping.proxy import Proxy

JOINED = Path("worker-has-joined")

if __name__ == "__main__":
    evaluate = Proxy.evaluate

    def together(self, gene, seed=None):
        if sys.argv[1] == "worker":
            JOINED.touch()
        until = time.monotonic() + 100
        while "WAIT" in os.environ and not JOINED.exists() and time.monotonic() < until:
            time.sleep(0.02)
        return evaluate(self, gene, seed)

    Proxy.evaluate = together
    sys.argv[0] = "bertcompress"
    cli.main()
