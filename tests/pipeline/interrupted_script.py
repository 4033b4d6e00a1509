"""Run by tests in processes of their own: the command line, with checkpoints every twentieth of a second."""

from __future__ import annotations

import sys

from bertcompress import cli
from bertcompress.training import checkpoint

if __name__ == "__main__":
    checkpoint.SECONDS, checkpoint.SHARE = 0.05, 1e9
    sys.argv[0] = "bertcompress"
    cli.main()
