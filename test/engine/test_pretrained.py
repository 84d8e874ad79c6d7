"""Parts that start from pretrained weights: where the file is, what it fills, what a run says."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from anybev.engine import pretrained
from anybev.engine.pretrained import load_pretrained, local_file
from anybev.models.common.swin import SwinTransformer

URL = "https://example.org/releases/v1/swin.pth?raw=1"


class Part(nn.Linear):
    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(2, 2)
        self.init_cfg = init_cfg


class Detector(nn.Module):
    def __init__(self, init_cfg: dict | None = None, part: nn.Module | None = None) -> None:
        super().__init__()
        self.img_backbone = part or Part(init_cfg)
        self.pts_backbone = Part()


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    assert local_file("img_backbone", str(tmp_path / "w.pth")) == tmp_path / "w.pth"
    with pytest.raises(
        FileNotFoundError,
        match=r"^img_backbone: init_cfg.checkpoint no.pth must be an existing file, got none; try "
        r"model.img_backbone.init_cfg.checkpoint=FILE, or model.img_backbone.init_cfg=None",
    ):
        local_file("img_backbone", "no.pth")


def test_a_url_stands_for_a_file_that_the_user_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANYBEV_WEIGHTS", str(tmp_path))
    message = (
        rf"there for {re.escape(URL)}, which is not downloaded, got no file; try fetching it and "
        rf"putting it at {re.escape(str(tmp_path))}/swin.pth \(ANYBEV_WEIGHTS"
    )
    with pytest.raises(FileNotFoundError, match=message):
        local_file("img_backbone", URL)
    (tmp_path / "swin.pth").touch()
    assert local_file("img_backbone", URL) == tmp_path / "swin.pth"
    monkeypatch.delenv("ANYBEV_WEIGHTS")
    with pytest.raises(FileNotFoundError, match=r"checkpoint weights/swin.pth must be there for"):
        local_file("img_backbone", URL)


def test_only_parts_with_init_cfg_are_filled(tmp_path: Path) -> None:
    source = nn.Linear(2, 2)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")}
    detector = Detector(cfg)
    before = detector.pts_backbone.weight.clone()
    assert load_pretrained(detector) == {"img_backbone": f"2 tensors ({tmp_path / 'w.pth'})"}
    assert torch.equal(detector.img_backbone.weight, source.weight)
    assert torch.equal(detector.pts_backbone.weight, before)
    assert load_pretrained(Detector()) == {}


def test_a_swin_backbone_is_found_in_a_detectors_file(tmp_path: Path) -> None:
    options = {"embed_dims": 4, "depths": (1, 1), "num_heads": (1, 1), "strides": (4, 2)}
    options |= {"out_indices": (1,), "window_size": 2}
    source = SwinTransformer(**options)
    state = {f"backbone.{key}": value for key, value in source.state_dict().items()}
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "w.pth")
    cfg = {"type": "Pretrained", "checkpoint": str(tmp_path / "w.pth")}
    backbone = SwinTransformer(**options, init_cfg=cfg, convert_weights=True)
    report = load_pretrained(Detector(part=backbone))["img_backbone"]
    count = len(source.state_dict())
    assert report.startswith(f"{count} of {count} entries, mmdet names behind 'backbone.' (")
    assert torch.equal(backbone.patch_embed.projection.weight, source.patch_embed.projection.weight)


@pytest.mark.parametrize(
    ("init_cfg", "message"),
    [
        ({"type": "Kaiming", "layer": "Conv2d"}, "img_backbone: init_cfg must be given known keys"),
        ({"type": "Kaiming"}, r"must be dict\(type='Pretrained', checkpoint=FILE\), got"),
        ({"type": "Pretrained"}, r"must be dict\(type='Pretrained', checkpoint=FILE\), got"),
        ({"type": "Pretrained", "checkpoin": "x"}, "got 'checkpoin'; try checkpoint"),
    ],
)
def test_another_kind_of_initialisation_is_refused(init_cfg: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_pretrained(Detector(init_cfg))


def test_nothing_here_opens_a_connection() -> None:
    source = Path(pretrained.__file__).read_text()
    assert not re.search(r"urllib|requests|load_url|hub", source)
