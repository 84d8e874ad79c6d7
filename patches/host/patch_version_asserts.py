"""mmdet and mmdet3d refuse to be imported beside an mmcv or mmdet newer than themselves."""

import importlib
import importlib.util
import runpy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from packaging.version import Version

# What mmdet 3.3.0 and mmdet3d 1.4.0 no longer accept, and the newest release that they do.
_REFUSED_FROM = {"mmcv": ("2.2.0", "2.1.0"), "mmdet": ("3.4.0", "3.3.0")}


def _installed(package: str) -> Version | None:
    """The version that a package gives itself, read without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Version(runpy.run_path(str(Path(spec.origin).with_name("version.py")))["__version__"])


def _newer() -> dict[str, str]:
    """Packages that are too new for mmdet or mmdet3d, and the version to show in their place."""
    return {
        package: shown
        for package, (refused, shown) in _REFUSED_FROM.items()
        if (found := _installed(package)) is not None and found >= Version(refused)
    }


def skip_reason_lowered_versions() -> str | None:
    """The released pair, mmcv 2.1 and mmdet 3.3, passes the checks."""
    return None if _newer() else "mmcv and mmdet are of the versions that mmdet3d accepts"


@contextmanager
def lowered_versions() -> Iterator[None]:
    """While the block imports mmdet and mmdet3d, newer ones show the newest version accepted.

    The packages have their own versions again afterwards. Functions that changed in them are found
    by the hashes of the ledger, not by this check.
    """
    with ExitStack() as stack:
        for package, shown in _newer().items():  # mmcv first: mmdet looks at it
            module = importlib.import_module(package)
            stack.enter_context(mock.patch.object(module, "__version__", shown))
        yield
