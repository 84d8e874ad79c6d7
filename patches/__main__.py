"""Runs a script of mmdetection3d, or a user's, with the patches applied.

``python -m anybev.patches SCRIPT [ARGUMENTS ...]``, or ``-m MODULE`` as with Python itself. Modules
are found from the script's folder, as without the patches, and from the current one. Processes that
the script forks are patched; those that it spawns have to call ``anybev.patches.apply`` first.
"""

import importlib.util
import os
import runpy
import sys

from anybev.patches.application import apply
from anybev.patches.outcome import PatchError

_USAGE = "usage: python -m anybev.patches SCRIPT [ARGUMENTS ...] | -m MODULE [ARGUMENTS ...]"


def main(arguments: list[str]) -> int:
    """Run what the arguments name as ``__main__``; its own exit status stays.

    Returns:
        2 where nothing could be run, else 0.
    """
    as_module = arguments[:1] == ["-m"]
    rest = arguments[1:] if as_module else arguments
    if not rest or rest[0].startswith("-"):
        print(_USAGE, file=sys.stderr)
        return 2
    if not as_module and not os.path.isfile(rest[0]):
        print(f"error: patches: no script {rest[0]}", file=sys.stderr)
        return 2
    try:
        apply()
    except (PatchError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if as_module and not _is_there(rest[0]):
        print(f"error: patches: no module {rest[0]}", file=sys.stderr)
        return 2
    sys.argv = rest
    if as_module:
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(rest[0])))
        runpy.run_path(rest[0], run_name="__main__")
    return 0


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that it would lie in
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
