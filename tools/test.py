#!/usr/bin/env python
"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] ...``."""

import sys

from anybev.engine.launch import fail_clearly
from anybev.engine.test import evaluate

if __name__ == "__main__":
    sys.exit(fail_clearly(evaluate))
