"""``python -m anybev.testing.simnpu SCRIPT ARGS``: a script in a process with simulated npus."""

import runpy
import sys

from anybev.testing import simnpu


def main() -> None:
    """Activate, then run the script as if it had been started by itself."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m anybev.testing.simnpu SCRIPT [ARGUMENT ...]")
    simnpu.activate()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
