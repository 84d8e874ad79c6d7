#!/usr/bin/env python
"""Train a detector: ``python tools/train.py CONFIG [--work-dir DIR] [--amp] [--resume] ...``."""

import sys
from functools import partial

from anybev.engine.launch import fail_clearly
from anybev.engine.train import train
from anybev.patches import apply

if __name__ == "__main__":
    sys.exit(fail_clearly(partial(train, host=apply)))
