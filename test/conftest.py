"""Fixtures that every test may use."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from anybev import envs

if envs.simulate() == "npu":  # before mmengine, which looks for devices when it is imported
    from anybev.testing import simnpu

    simnpu.activate()

from mmengine.registry import DefaultScope

from anybev.datasets.nuscenes_infos import create_nuscenes_infos
from anybev.datasets.synthetic.nuscenes import write_nuscenes

# A shell without job control starts what it puts in the background with Ctrl-C ignored; processes
# that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def default_scope() -> Iterator[None]:
    """The default scope of mmengine's registries before a test comes back after it."""
    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


@pytest.fixture(scope="session", autouse=True)
def plain_configs() -> Iterator[None]:
    """Runs write their configs as they are: to format one takes longer than most trainings here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True))
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real sample data; the test skips where it is missing."""
    folder = envs.test_data()
    if not (folder / "data").is_dir():
        pytest.skip(f"no real sample data at {folder} (set ANYBEV_TEST_DATA)")
    return folder


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device of this machine; the absent ones skip."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training and one validation scene with info files and object database."""
    root = tmp_path_factory.mktemp("nuscenes")
    write_nuscenes(root, scenes=1, val_scenes=1, seed=11, workers=2, camera_scale=0.25)
    create_nuscenes_infos(root, root)
    return root
