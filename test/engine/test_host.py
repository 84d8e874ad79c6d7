"""Configs of mmdetection3d: found, made ready, driven by the host's runner; no host needed here."""

import argparse
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from anybev.engine import host as hosts
from anybev.engine.config import load
from anybev.engine.host import HostRunner


class _Line(BaseModel):
    """A line through points, as mmengine's models are written."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)

    def forward(self, x: Tensor, y: Tensor, mode: str = "tensor") -> Any:
        found = self.line(x)
        return {"loss": (found - y).square().mean()} if mode == "loss" else [found.mean().item()]


class _Points(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": torch.tensor([float(index)]), "y": torch.tensor([2.0 * index])}


class _Mean(BaseMetric):
    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(data_samples[0])

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        return {"mean": sum(results) / len(results)}


def _runner(work_dir: Path, epochs: int = 1, **more: Any) -> HostRunner:
    def loader(shuffle: bool) -> dict[str, Any]:
        sampler = {"type": "DefaultSampler", "shuffle": shuffle}
        together = {"type": "default_collate"}
        return {"batch_size": 2, "dataset": _Points(), "sampler": sampler, "collate_fn": together}

    return HostRunner(
        model=_Line(),
        work_dir=str(work_dir),
        train_dataloader=loader(shuffle=True),
        val_dataloader=loader(shuffle=False),
        test_dataloader=loader(shuffle=False),
        train_cfg={"by_epoch": True, "max_epochs": epochs, "val_interval": 1},
        val_cfg={},
        test_cfg={},
        val_evaluator=[_Mean()],
        test_evaluator=[_Mean()],
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}},
        default_scope="mmengine",
        experiment_name=f"{work_dir.name}-{epochs}-{len(more)}",
        **more,
    )


@pytest.mark.filterwarnings("default")
def test_runner_trains_resumes_and_evaluates_without_running_a_checkpoints_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _runner(tmp_path)
    first.train()
    assert first.last_metrics.keys() == {"mean"}
    assert first.train_measures["steps"] == 4
    # Mmengine's own way, not taken.
    monkeypatch.setattr("mmengine.runner.checkpoint._safe_torch_load", None, raising=False)
    second = _runner(tmp_path, epochs=2, resume=True)
    second.train()
    assert second.iter == 8
    assert len(second.message_hub.get_scalar("train/loss").data[0]) == 8
    third = _runner(tmp_path, load_from=str(tmp_path / "epoch_2.pth"))
    assert third.test() == second.last_metrics


@pytest.mark.filterwarnings("default")
def test_evaluation_refuses_a_checkpoint_that_does_not_fill_the_model(tmp_path: Path) -> None:
    torch.save({"state_dict": {"line.weight": torch.ones(1, 1)}}, tmp_path / "half.pth")
    runner = _runner(tmp_path, load_from=str(tmp_path / "half.pth"))
    with pytest.raises(ValueError, match=r"must fill the model, got no .* line\.bias"):
        runner.test()
    _runner(tmp_path, load_from=str(tmp_path / "half.pth")).train()  # as mmengine's


class _Code:
    def __reduce__(self) -> Any:
        return (print, ("ran",))


def test_checkpoints_cannot_run_code_and_keep_their_histories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = {
        "log_scalars": {"loss": HistoryBuffer([1.0, 2.0], [1, 1])},
        "runtime_info": {"iter": 3, "odd": Path("x")},
        "resumed_keys": {},
    }
    torch.save({"state_dict": {}, "message_hub": hub}, tmp_path / "good.pth")
    content = hosts.read_checkpoint(str(tmp_path / "good.pth"))["message_hub"]
    assert content["log_scalars"]["loss"].mean() == 1.5
    assert content["runtime_info"] == {"iter": 3}
    torch.save({"state_dict": {}, "odd": _Code()}, tmp_path / "bad.pth")
    with hosts.reads_safely(), pytest.raises(ValueError, match="it was not loaded"):
        hosts.CheckpointLoader.load_checkpoint(str(tmp_path / "bad.pth"))
    assert "ran" not in capsys.readouterr().out


def test_unfilled_compares_sizes_and_takes_off_wrappers() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    weights = {f"module.{key}": value for key, value in model.state_dict().items()}
    assert hosts.unfilled(model, weights) == []
    weights["module.0.weight"] = weights["module.0.weight"].T
    assert hosts.unfilled(model, weights) == []  # another layout
    weights["module.0.weight"] = torch.ones(4, 2)
    del weights["module.1.bias"], weights["module.1.num_batches_tracked"]
    assert hosts.unfilled(model, weights) == ["0.weight", "1.bias"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with a config of the host's, which imports a module of its own."""
    folder = tmp_path / "ahost"
    (folder / ".mim" / "configs" / "a").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / ".mim" / "configs" / "a" / "b.py").write_text(
        "default_scope = 'mmdet3d'\nanything = 1\ncustom_imports = dict(imports=['aproject'])\n"
    )
    (tmp_path / "aproject.py").write_text("import builtins\nbuiltins.seen.append('project')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_configs_of_a_package_are_found_without_importing_it(package: Path) -> None:
    found = hosts.installed_config("ahost::a/b.py")
    assert Path(found) == package / ".mim" / "configs" / "a" / "b.py"
    assert hosts.installed_config("configs/x.py") == "configs/x.py"
    with pytest.raises(FileNotFoundError, match=r"among the configs of .*, got no a/c\.py"):
        hosts.installed_config("ahost::a/c.py")
    with pytest.raises(FileNotFoundError, match="must name an installed package, got 'nohost'"):
        hosts.installed_config("nohost::a/b.py")


def test_host_is_made_ready_before_the_configs_imports(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    seen: list[str] = []
    monkeypatch.setattr(builtins, "seen", seen, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = load("ahost::a/b.py", {"anything": 2}, lambda: seen.append("host"))
    assert seen == ["host", "project"]
    assert config.anything == 2
    assert config.ddp == {"broadcast_buffers": False}
    sys.modules.pop("aproject")
    with pytest.raises(ValueError, match="run, and no other"):
        load("ahost::a/b.py")


def test_workers_of_a_host_are_forked_for_the_patches_to_be_there() -> None:
    asked: list[str] = []
    config = Config({"env_cfg": {"mp_cfg": {"mp_start_method": "spawn"}}})
    with pytest.raises(ValueError, match=r"mp_start_method must be fork .*, got 'spawn'"):
        hosts.make_ready(config, lambda: asked.append("host"))
    assert asked == []


def test_drawing_a_hosts_results_needs_to_know_what() -> None:
    config = Config({"default_hooks": {"visualization": {"type": "Det3DVisualizationHook"}}})
    with pytest.raises(ValueError, match=r"needs --task mono_det\|"):
        hosts.show(config, "out", 0.2, None)
    hosts.show(config, "out", 0.2, "mono_det")
    hook = config.default_hooks.visualization
    assert (hook.draw, hook.test_out_dir, hook.vis_task) == (True, "out", "mono_det")
    with pytest.raises(ValueError, match=r"needs default_hooks\.visualization"):
        hosts.show(Config({}), "out", 0.2, "mono_det")
    parser = argparse.ArgumentParser()
    hosts.add_flags(parser)
    assert parser.parse_args(["--task", "lidar_det"]).task == "lidar_det"
