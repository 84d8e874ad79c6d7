"""Checkpoints of the original repository; the inverse converter here is written on its own."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anybev.datasets.boxes import corners
from anybev.engine.builder import build_detector
from anybev.engine.checkpoint import load_into, read
from anybev.engine.convert import convert, default_config
from anybev.engine.convert_mit import convert_mit, mit_boxes_to_ours
from anybev.models.bevfusion.box_coder import TransFusionBBoxCoder
from anybev.testing.tiny import tiny_batch, tiny_model_cfg
from anybev.testing.tiny_cameras import tiny_camera_cfg

State = dict[str, Tensor]

THEIRS = {
    "img_backbone": "encoders.camera.backbone",
    "img_neck": "encoders.camera.neck",
    "view_transform": "encoders.camera.vtransform",
    "pts_middle_encoder": "encoders.lidar.backbone",
    "fusion_layer": "fuser",
    "pts_backbone": "decoder.backbone",
    "pts_neck": "decoder.neck",
    "bbox_head": "heads.object",
}
DECODER_WORDS = {
    "self_attn.attn": "self_attn",
    "cross_attn.attn": "multihead_attn",
    "ffn.layers.0.0": "linear1",
    "ffn.layers.1": "linear2",
    "norms.0": "norm1",
    "norms.1": "norm2",
    "norms.2": "norm3",
}
# Where [out, kx, ky, kz, in] goes.
AXES = {"rsck": (1, 2, 3, 4, 0), "rskc": (1, 2, 3, 0, 4), "krsc": (0, 1, 2, 3, 4)}


def model(seed: int = 0, *, cameras: bool = False, layers: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    make = tiny_camera_cfg if cameras else tiny_model_cfg
    detector = build_detector(make(num_decoder_layers=layers))
    for name, value in detector.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
    return detector


def as_mit(state: State, layout: str = "rsck") -> State:
    """Our weights as that repository stores them."""
    theirs: State = {}
    for key, value in state.items():
        part, rest = key.split(".", 1)
        if value.dim() == 5:
            value = value.permute(AXES[layout])
        if rest.startswith("decoder."):
            for ours, word in DECODER_WORDS.items():
                rest = rest.replace(f".{ours}.", f".{word}.")
        if rest.startswith("prediction_heads."):
            if ".dim.1." in rest:  # length, width, height to width, length, height
                value = torch.stack([value[1], value[0], value[2]])
            if ".rot.1." in rest:  # sine and cosine of -pi / 2 - yaw
                value = torch.stack([-value[1], -value[0]])
        theirs[f"{THEIRS[part]}.{rest}"] = value.clone()
    return theirs


def same(one: State, two: State) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


@pytest.mark.parametrize("layout", ["rsck", "rskc", "krsc"])
@pytest.mark.parametrize("cameras", [False, True])
def test_every_weight_comes_back(cameras: bool, layout: str) -> None:
    source = model(1, cameras=cameras, layers=2).state_dict()
    theirs = as_mit(source, layout)
    assert not set(theirs) & set(source)
    done = convert_mit({f"module.{key}": value for key, value in theirs.items()})
    same(done.state_dict, source)
    sparse = sum(value.dim() == 5 for value in source.values())
    assert done.layout == layout
    assert len(done.permuted) == (0 if layout == "krsc" else sparse)
    assert done.turned == tuple(
        f"prediction_heads.{layer}.{name}.1" for layer in (0, 1) for name in ("dim", "rot")
    )
    assert all(value.is_contiguous() for value in done.state_dict.values())


def mit_corners(box: np.ndarray) -> np.ndarray:
    """(4, 2) corners seen from above, as mmdetection3d before 1.0 placed them."""
    x, y, _, width, length, _, yaw = box[:7]
    c, s = math.cos(yaw), math.sin(yaw)
    found = []
    for i in (-0.5, 0.5):
        for j in (-0.5, 0.5):
            along_x, along_y = i * width, j * length
            found.append((x + along_x * c + along_y * s, y - along_x * s + along_y * c))
    return np.array(sorted(found))


def test_boxes_of_a_turned_head_are_the_same_boxes() -> None:
    """Random features through the head as stored and as converted."""
    source = model(3).state_dict()
    theirs = as_mit(source)
    done = convert_mit(theirs).state_dict
    coder = TransFusionBBoxCoder([-16.0, -24.0], 4, [0.5, 0.5], code_size=10)
    hidden = torch.randn(2, 64, 50)

    def outputs(state: State, head: str) -> dict[str, Tensor]:
        branches = {}
        for name in ("center", "height", "dim", "rot", "vel"):
            p = f"{head}.prediction_heads.0.{name}.1"
            branches[name] = nn.functional.conv1d(hidden, state[f"{p}.weight"], state[f"{p}.bias"])
        return branches

    # Their coder differs from ours in names of axes only, so ours decodes both.
    decoded_mit = coder.decode(outputs(theirs, "heads.object"))
    decoded = coder.decode(outputs(done, "bbox_head"))
    wanted = mit_boxes_to_ours(decoded_mit)
    turns = (decoded[..., 6] - wanted[..., 6]) / (2 * math.pi)
    torch.testing.assert_close(turns, turns.round(), rtol=0, atol=1e-5)
    rest = [0, 1, 2, 3, 4, 5, 7, 8]
    torch.testing.assert_close(decoded[..., rest], wanted[..., rest])
    assert (decoded[..., 3] - decoded_mit[..., 3]).abs().min() > 1e-4  # something was turned
    for box, theirs_box in zip(decoded[0].double(), decoded_mit[0].double(), strict=True):
        ours = corners(box.numpy()[None])[0, :4, :2]
        mine = np.array(sorted(map(tuple, ours)))
        np.testing.assert_allclose(mine, mit_corners(theirs_box.numpy()), atol=1e-4)


def test_boxes_of_the_data_set_survive_the_detour() -> None:
    """A box as annotated, as that repository stored it, and back."""
    draw = np.random.default_rng(0)
    length, width, height = draw.uniform(0.5, 5, (3, 20))
    psi = draw.uniform(-math.pi, math.pi, 20)  # from +x towards +y, as annotated
    xyz, velocity = draw.normal(0, 10, (20, 3)), draw.normal(0, 3, (20, 2))
    stored = np.column_stack([xyz, width, length, height, -psi - math.pi / 2, velocity])
    ours = mit_boxes_to_ours(torch.from_numpy(stored)).numpy()
    np.testing.assert_allclose(ours[:, [0, 1, 2, 7, 8]], np.column_stack([xyz, velocity]))
    np.testing.assert_allclose(ours[:, 3:6], np.column_stack([length, width, height]))
    np.testing.assert_allclose(ours[:, 6], psi, atol=1e-12)


def test_the_file_is_written_once_it_fills_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = model(1)
    cfg = tiny_model_cfg()
    (tmp_path / "tiny.py").write_text(f"model = {cfg!r}\n")
    extra = {"heads.map.classifier.0.weight": torch.zeros(2)}
    torch.save(
        {"state_dict": as_mit(source.state_dict()) | extra, "meta": {"epoch": 6}},
        tmp_path / "mit.pth",
    )
    with pytest.raises(ValueError, match=r"try tools/convert_checkpoint.py"):
        load_into(model(2), tmp_path / "mit.pth")
    options = [str(tmp_path / "mit.pth"), str(tmp_path / "ours.pth")]
    convert([*options, "--config", str(tmp_path / "tiny.py")])
    report = capsys.readouterr().out
    entries = len(source.state_dict())
    assert f"{entries} tensors renamed: pts_middle_encoder" in report
    sparse = sum(value.dim() == 5 for value in source.state_dict().values())
    assert f"sparse weights were in RSCK, {sparse} permuted" in report
    assert "boxes: prediction_heads.0.dim.1, prediction_heads.0.rot.1 turned" in report
    assert "1 tensors left out: heads.map.classifier.0.weight" in report
    assert f"fills tiny.py: {entries} tensors, sparse weights in KRSC" in report
    loaded = model(2)
    load_into(loaded, tmp_path / "ours.pth")
    same(loaded.state_dict(), source.state_dict())
    assert read(tmp_path / "ours.pth")["meta"]["dropped"] == ["heads.map.classifier.0.weight"]
    batch = tiny_batch()
    for a, b in zip(source.eval().predict(batch), loaded.eval().predict(batch), strict=True):
        assert torch.equal(a.boxes_lidar, b.boxes_lidar)
        assert torch.equal(a.scores, b.scores)


def test_a_file_that_does_not_fill_the_model_is_not_written(tmp_path: Path) -> None:
    state = as_mit(model(1).state_dict())
    torch.save(state, tmp_path / "mit.pth")
    cfg = tiny_model_cfg()
    cfg["pts_neck"]["out_channels"], cfg["bbox_head"]["in_channels"] = [24, 24], 48
    (tmp_path / "wide.py").write_text(f"model = {cfg!r}\n")
    paths = [str(tmp_path / "mit.pth"), str(tmp_path / "ours.pth")]
    with pytest.raises(ValueError, match=r"mit.pth must fill BEVFusion, got \d+ of"):
        convert([*paths, "--config", str(tmp_path / "wide.py")])
    assert not (tmp_path / "ours.pth").exists()
    with pytest.raises(ValueError, match="target must be another file than the source"):
        convert([paths[0], paths[0]])


def test_the_shipped_config_follows_from_the_sensors() -> None:
    state = model(1, cameras=True).state_dict()
    assert default_config(convert_mit(as_mit(state))).stem.startswith("bevfusion_lidar-cam_voxel")
    lidar = {k: v for k, v in as_mit(state).items() if not k.startswith(("encoders.ca", "fuser"))}
    path = default_config(convert_mit(lidar))
    assert path.stem.startswith("bevfusion_lidar_voxel0075")
    assert path.is_file()
    cameras = {k: v for k, v in as_mit(state).items() if "lidar" not in k}
    with pytest.raises(ValueError, match=r"must hold encoders.lidar, got cameras alone"):
        default_config(convert_mit(cameras))


def test_a_layout_that_the_shapes_do_not_tell_must_be_said() -> None:
    state = {
        key: value
        for key, value in as_mit(model(1).state_dict()).items()
        if value.dim() != 5 or value.shape[3] == value.shape[4]
    }
    message = r"fits RSCK and RSKC alike; try --layout rsck or --layout rskc"
    with pytest.raises(ValueError, match=message):
        convert_mit(state)
    assert convert_mit(state, "rskc").layout == "rskc"
    with pytest.raises(ValueError, match=r"conv1.weight must be krsc as asked, got \[3, 3, 3,"):
        convert_mit(state, "krsc")
    with pytest.raises(ValueError, match="layout must be one of krsc, rsck, rskc, got 'kcrs'"):
        convert_mit(state, "kcrs")


def test_what_is_not_such_a_file_is_named() -> None:
    source = model(1).state_dict()
    with pytest.raises(ValueError, match=r"got mmdetection3d's; try it as it is"):
        convert_mit(source)
    with pytest.raises(ValueError, match=r"must hold heads.object, got 2 keys without it: bias, w"):
        convert_mit(nn.Linear(1, 1).state_dict())
    theirs = as_mit(source)
    pillars = theirs | {"encoders.lidar.backbone.pfn_layers.0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"got 1 unknown ones: encoders.lidar.backbone.pfn_lay"):
        convert_mit(pillars)
    radar = theirs | {f"encoders.radar.backbone.{i}.weight": torch.zeros(1) for i in range(12)}
    with pytest.raises(ValueError, match=r"got 12 unknown ones: .* and 2 more"):
        convert_mit(radar)
    center_head = {k: v for k, v in theirs.items() if "heads.object" not in k}
    center_head["heads.object.task_heads.0.reg.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"unknown ones: heads.object.task_heads"):
        convert_mit(center_head)
    headless = {k: v for k, v in theirs.items() if "prediction_heads" not in k}
    with pytest.raises(ValueError, match="must have prediction_heads with dim and rot, got none"):
        convert_mit(headless)
    key = "encoders.lidar.backbone.conv_input.0.weight"
    with pytest.raises(ValueError, match=r"in one of KRSC, RSCK, RSKC, got .*\[5, 8, 3, 3, 3\]"):
        convert_mit(theirs | {key: torch.zeros(5, 8, 3, 3, 3)})
    bare = {k: v for k, v in theirs.items() if ".conv_input.1." not in k}
    with pytest.raises(ValueError, match=r"conv_input.0.weight must have a norm behind it, got no"):
        convert_mit(bare)
    deep = {"encoders.camera.vtransform.dtransform.0.weight": torch.zeros(8, 6, 1, 1)}
    with pytest.raises(ValueError, match=r"depth image must have 1 channel.* got 6"):
        convert_mit(theirs | deep)
