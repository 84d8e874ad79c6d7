"""The version checks of mmdet and mmdet3d beside packages newer than they know."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anybev.patches.host import patch_version_asserts
from anybev.patches.host.patch_version_asserts import lowered_versions, skip_reason_lowered_versions

# Stand-ins with the same checks; real names, real ranges.
MMDET = """
import mmcv
from .version import __version__
assert mmcv.__version__ < "2.2.0", f"MMCV=={mmcv.__version__} is used but incompatible."
"""
MMDET3D = """
import mmcv, mmdet
assert mmcv.__version__ < "2.2.0", f"MMCV=={mmcv.__version__} is used but incompatible."
assert mmdet.__version__ < "3.4.0", f"MMDET=={mmdet.__version__} is used but incompatible."
"""


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages mmcv 2.3.6, mmdet 3.5.1 and mmdet3d that come first on the path."""
    sources = {
        "mmcv": ("2.3.6", "from .version import __version__\n"),
        "mmdet": ("3.5.1", MMDET),
        "mmdet3d": ("1.4.0", MMDET3D),
    }
    for name, (version, source) in sources.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(source)
        (folder / "version.py").write_text(f'__version__ = "{version}"\n')
    hidden = [n for n in sys.modules if n.partition(".")[0] in sources]
    for name in hidden:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [n for n in sys.modules if n.partition(".")[0] in sources]:
        del sys.modules[name]


def test_newer_packages_are_refused_without_the_patch(newer: None) -> None:
    with pytest.raises(AssertionError, match=r"MMCV==2\.3\.6"):
        importlib.import_module("mmdet3d")


def test_newer_packages_are_imported_and_keep_their_versions(newer: None) -> None:
    assert skip_reason_lowered_versions() is None
    with lowered_versions():
        importlib.import_module("mmdet3d")
    assert sys.modules["mmcv"].__version__ == "2.3.6"
    assert sys.modules["mmdet"].__version__ == "3.5.1"


def test_versions_come_back_when_the_import_fails(newer: None) -> None:
    context = lowered_versions()
    context.__enter__()
    assert sys.modules["mmcv"].__version__ == "2.1.0"
    error = RuntimeError("broken")
    assert not context.__exit__(RuntimeError, error, None)
    assert sys.modules["mmcv"].__version__ == "2.3.6"


def test_the_released_pair_needs_no_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    from packaging.version import Version

    found = {"mmcv": Version("2.1.0"), "mmdet": Version("3.3.0")}
    monkeypatch.setattr(patch_version_asserts, "_installed", found.get)
    assert skip_reason_lowered_versions() is not None
    monkeypatch.setattr(patch_version_asserts, "_installed", lambda package: None)
    assert skip_reason_lowered_versions() is not None
