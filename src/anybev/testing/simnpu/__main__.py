"""``python -m anybev.testing.simnpu SCRIPT ARGS``: a script in a process with simulated npus.

Without a script it only compiles the device, where that was not done before.
"""

import runpy
import sys

from anybev.testing import simnpu


def main() -> None:
    """Activate, then run the script as if it had been started by itself."""
    simnpu.activate()
    if len(sys.argv) < 2:
        return
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
