#!/usr/bin/env python
"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] ...``."""

import sys
from functools import partial

from anybev.engine.launch import fail_clearly
from anybev.engine.test import evaluate
from anybev.patches import apply

if __name__ == "__main__":
    sys.exit(fail_clearly(partial(evaluate, host=apply)))
