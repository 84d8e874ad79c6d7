"""A run's config as entries: what counts, what does not."""

import pytest

from anybev.reporting.config_identity import config_entries, config_hash, differences

TEXT = """
data_root = '/data/a/'
model = dict(type='BEVFusion', bias=-2.5, low=float_low, layers=[dict(n=1), dict(n=2)])
optim_wrapper = {'type': 'OptimWrapper', 'lr': 0.1, 'clip': inf, 'betas': (0.9, -0.99)}
randomness = dict(seed=3)
train_dataloader = dict(
    num_workers=4, dataset=dict(data_root='/data/a/', ann_file='/data/a/infos.pkl', pipeline=[]))
work_dir = '/runs/a'
""".replace("low=float_low", "low=None")


def test_entries_are_flat_and_say_nothing_of_places() -> None:
    assert config_entries(TEXT) == {
        "model.type": "BEVFusion",
        "model.bias": -2.5,
        "model.low": None,
        "model.layers.0.n": 1,
        "model.layers.1.n": 2,
        "optim_wrapper.type": "OptimWrapper",
        "optim_wrapper.lr": 0.1,
        "optim_wrapper.clip": "inf",
        "optim_wrapper.betas": [0.9, -0.99],
        "train_dataloader.dataset.ann_file": "infos.pkl",
        "train_dataloader.dataset.pipeline": [],
    }


def test_hash_ignores_place_seed_and_workers_alone() -> None:
    ours = config_entries(TEXT)
    moved = TEXT.replace("/data/a", "/mnt/b").replace("seed=3", "seed=4").replace("=4,", "=0,")
    assert config_hash(config_entries(moved)) == config_hash(ours)
    other = config_entries(TEXT.replace("0.1", "0.2"))
    assert config_hash(other) != config_hash(ours)
    assert differences(ours, other) == ["optim_wrapper.lr: 0.1, 0.2"]


def test_the_header_of_submissions_is_no_entry() -> None:
    text = "val_evaluator = dict(split='val', modality=dict(use_camera=True))\n"
    text += "val_dataloader = dict(dataset=dict(modality=dict(use_camera=True)))"
    assert config_entries(text) == {
        "val_evaluator.split": "val",
        "val_dataloader.dataset.modality.use_camera": True,
    }


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("/runs/a/epoch_6.pth", "a/epoch_6.pth"),
        ("/runs/b/epoch_6.pth", "b/epoch_6.pth"),
        ("/elsewhere/b/epoch_6.pth", "b/epoch_6.pth"),
        ("/epoch_6.pth", "epoch_6.pth"),
        ("epoch_6.pth", "epoch_6.pth"),
    ],
)
def test_the_first_weights_are_known_by_file_and_folder(path: str, entry: str) -> None:
    assert config_entries(f"load_from = {path!r}") == {"load_from": entry}


@pytest.mark.parametrize(
    "text",
    [
        "model = __import__('os').system('true')",
        "model = dict(**other)",
        "model = dict([1])",
        "model = unknown",
        "model = dict(",
        "model = -'a'",
    ],
)
def test_code_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"regress: the config of a run must be assignments of pl"):
        config_entries(text)
