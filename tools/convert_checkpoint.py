#!/usr/bin/env python
"""Convert a checkpoint: ``python tools/convert_checkpoint.py SRC DST [--config CONFIG] ...``."""

import sys

from anybev.engine.convert import convert
from anybev.engine.launch import fail_clearly

if __name__ == "__main__":
    sys.exit(fail_clearly(convert))
