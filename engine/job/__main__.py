"""``python -m anybev.engine.job``: one node's share of a job, in the foreground."""

import sys

from anybev.engine.job.options import from_arguments
from anybev.engine.job.run import run
from anybev.engine.launch import fail_clearly


def main() -> None:
    """Run; the exit status is the training's."""
    status = run(from_arguments(sys.argv[1:]))
    if status:
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(fail_clearly(main))
