#!/usr/bin/env python
"""Train a detector: ``python tools/train.py CONFIG [--work-dir DIR] [--amp] [--resume] ...``."""

import sys

from anybev.engine.launch import fail_clearly
from anybev.engine.train import train

if __name__ == "__main__":
    sys.exit(fail_clearly(train))
