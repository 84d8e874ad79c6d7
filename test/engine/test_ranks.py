"""What each of two real ranks is given: every frame once, and one balanced list."""

import json
from pathlib import Path
from typing import Any

import pytest

from anybev.datasets.infos import load_infos, write_pickle
from anybev.testing.processes import Job

FRAMES = 5  # does not divide by two
WORKER = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.registry import init_default_scope
from anybev.engine import config as configs, distributed
from anybev.engine.loops import TimedValLoop
from anybev.engine.runner import Runner
from anybev.testing.tiny_config import CONFIG_FILE

root, ann_file, out = sys.argv[1:4]
distributed.join({"backend": "gloo", "timeout": 300})
configs.registries()
init_default_scope("anybev")
config = Config.fromfile(str(CONFIG_FILE))
ALONE = {"num_workers": 0, "persistent_workers": False}


class Model:
    def __init__(self):
        self.seen = []

    def eval(self):
        return self

    def val_step(self, data):
        self.seen += data["batch"].tokens
        return list(data["batch"].tokens)


class Tokens(BaseMetric):
    default_prefix = ""

    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        return {"collected": results}


val = config.val_dataloader.to_dict()
val["dataset"] |= {"data_root": root, "ann_file": ann_file}
model = Model()
runner = SimpleNamespace(
    model=model, visualizer=SimpleNamespace(), call_hook=lambda *a, **k: None
)
loader = Runner.build_dataloader(val | ALONE, seed=0)
loop = TimedValLoop(runner, loader, Evaluator([Tokens(collect_device="gpu")]))
collected = loop.run()["collected"]

train = config.train_dataloader.to_dict()
inner = train["dataset"] | {"data_root": root}
balanced = {"type": "CBGSDataset", "dataset": inner}
order = {"type": "EpochSampler", "shuffle": True}
loader = Runner.build_dataloader(
    train | ALONE | {"dataset": balanced, "sampler": order}, seed=7
)
told = {
    "seen": model.seen,
    "collected": collected,
    "frames": loader.dataset.frame_indices.tolist(),
    "taken": [key.index for key in loader.sampler],
}
Path(out, f"rank{get_rank()}.json").write_text(json.dumps(told))
distributed.leave()
"""


@pytest.fixture(scope="module")
def ann_file(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first frames of the validation scene."""
    path = tmp_path_factory.mktemp("uneven") / "infos.pkl"
    infos = load_infos(synthetic_root / "nuscenes_infos_val.pkl")
    write_pickle(path, infos | {"data_list": infos["data_list"][:FRAMES]})
    return path


@pytest.fixture(scope="module")
def ranks(
    synthetic_root: Path, ann_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each of two processes says."""
    folder = tmp_path_factory.mktemp("ranks")
    tool = folder / "worker.py"
    tool.write_text(WORKER)
    with Job([synthetic_root, ann_file, folder], folder / "out.txt", ranks=2, tool=tool) as job:
        assert job.finish(400) == 0, job.output()[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_uneven_evaluation_scores_every_frame_once(
    ranks: list[dict[str, Any]], ann_file: Path
) -> None:
    tokens = [info["token"] for info in load_infos(ann_file)["data_list"]]
    assert sorted(len(rank["seen"]) for rank in ranks) == [2, 3]
    # As they were scored: collecting cuts to the length, and the metric drops what comes twice.
    assert sorted(token for rank in ranks for token in rank["seen"]) == sorted(tokens)
    for rank in ranks:
        assert sorted(rank["collected"]) == sorted(tokens)


def test_balanced_lists_of_two_ranks_are_one(ranks: list[dict[str, Any]]) -> None:
    first, second = ranks
    assert first["frames"] == second["frames"]
    length = len(first["frames"])
    assert len(set(first["frames"])) < length  # frames repeat: it is a balanced list
    assert set(first["taken"]) | set(second["taken"]) == set(range(length))
    assert len(first["taken"]) == len(second["taken"]) == -(-length // 2)
    assert len(set(first["taken"]) & set(second["taken"])) == length % 2
