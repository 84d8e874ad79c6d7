"""One config of every family of mmdetection3d on the CPU: loss, backward, predict."""

from pathlib import Path

import pytest

import anybev
from anybev.testing import host_calls
from anybev.testing.host_calls import CALLS, LAYERS
from anybev.testing.host_families import FAMILIES, families_table
from anybev.testing.host_record import module_text
from anybev.testing.host_runs import build, run

pytestmark = pytest.mark.filterwarnings("default")

RUNS = [name for name, family in FAMILIES.items() if family.scene]
FAILS = [name for name, family in FAMILIES.items() if family.fails]


@pytest.fixture
def configs(host: object) -> Path:
    """Folder of the installed configs."""
    import mmdet3d

    return Path(mmdet3d.__file__).parent / ".mim/configs"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_family_learns_and_predicts(name: str, host: object) -> None:
    family = FAMILIES[name]
    found = run(name, family)
    assert found.finite
    assert found.loss > 0
    assert found.trained >= family.trained, found.silent
    assert len(found.results) == 2
    assert (found.calls, found.sparse) == (CALLS[name], LAYERS[name])


@pytest.mark.parametrize("name", FAILS)
def test_family_that_does_not_run_says_why(name: str, host: object) -> None:
    with pytest.raises((AssertionError, ImportError), match=FAMILIES[name].fails):
        build(name, FAMILIES[name])


def test_table_has_every_installed_family(configs: Path) -> None:
    folders = {path.name for path in configs.iterdir() if path.is_dir()}
    assert folders - {"_base_", "__pycache__"} == set(FAMILIES)
    for name, family in FAMILIES.items():
        if family.config:
            assert (configs / name / family.config).is_file()
        else:
            assert not list((configs / name).glob("*.py"))


def test_page_has_the_table() -> None:
    page = Path(anybev.__file__).resolve().parents[2] / "docs/host.md"
    assert families_table() in page.read_text()


def test_the_record_is_as_its_script_writes_it() -> None:
    assert module_text(CALLS, LAYERS) == Path(host_calls.__file__).read_text()
