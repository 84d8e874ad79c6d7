"""Cameras of the data set: parsing, folders, order, sizes, bad pictures."""

import numpy as np
import pytest
from PIL import Image

from anybev.datasets.infos import InfoError, load_infos, parse_frames
from anybev.datasets.nuscenes import NuScenesDataset, SampleError
from anybev.datasets.sample import collate
from anybev.datasets.transforms import (
    BEVLoadMultiViewImageFromFiles,
    ImageAug3D,
    LoadAnnotations3D,
    LoadPointsFromFile,
)

CHANNELS = ("CAM_FRONT", "CAM_BACK", "CAM_LEFT")
MODALITY = {"use_lidar": True, "use_camera": True}
AUGMENT = ((20, 30), (0.4, 0.6), (0.0, 0.0), (-5.0, 5.0), True)


class Rig:
    """The tiny data set with three cameras of 80 x 48 pixels."""

    def __init__(self, tiny):
        self.tiny, self.root = tiny, tiny.root
        rng = np.random.default_rng(4)
        for channel in CHANNELS:
            (self.root / "samples" / channel).mkdir()
        for index in range(6):
            images = {}
            for i, channel in enumerate(CHANNELS):
                name = f"{channel}_{index}.jpg"
                pixels = rng.integers(0, 256, (48, 80, 3), np.uint8)
                Image.fromarray(pixels).save(self.path(channel, index))
                lidar2cam = np.eye(4)
                lidar2cam[:3, 3] = [i, 0.5, -1]
                images[channel] = {
                    "img_path": f"data/{name}",
                    "cam2img": [[60.0 + i, 0, 40], [0, 60.0, 24], [0, 0, 1]],
                    "lidar2cam": lidar2cam.tolist(),
                }
            self.tiny.frame(index)["images"] = images

    def path(self, channel, index):
        return self.root / "samples" / channel / f"{channel}_{index}.jpg"

    def camera(self, index, channel="CAM_BACK"):
        return self.tiny.frame(index)["images"][channel]

    def dataset(self, train=False, **arguments):
        pipeline = [
            BEVLoadMultiViewImageFromFiles(),
            LoadPointsFromFile(),
            LoadAnnotations3D(),
            ImageAug3D(*AUGMENT, is_train=train),
        ]
        arguments = {"modality": MODALITY, "test_mode": not train, **arguments}
        return NuScenesDataset(
            self.tiny.save().name, self.root, self.tiny.classes, pipeline, **arguments
        )


@pytest.fixture
def rig(tiny):
    return Rig(tiny)


def test_frames_carry_cameras_only_where_asked(rig):
    for camera in rig.dataset().frames[0].cameras:
        assert camera.path == str(rig.path(camera.channel, 0))
        assert camera.size is None
    assert [c.channel for c in rig.dataset().frames[0].cameras] == list(CHANNELS)
    back = rig.dataset().frames[0].cameras[1]
    np.testing.assert_array_equal(
        back.cam2img, [[61, 0, 40, 0], [0, 60, 24, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(back.lidar2cam[:, 3], [1, 0.5, -1, 1])
    for modality in (None, {"use_camera": False}):
        assert rig.dataset(modality=modality).frames[0].cameras == ()


def test_samples_hold_pictures_and_matrices(rig):
    cameras = collate([rig.dataset()[0], rig.dataset()[1]]).cameras
    assert cameras.images.shape == (2, 3, 3, 20, 30)
    assert cameras.cam2img[0, 1, 0, 0] == 61
    assert cameras.cam2lidar[0, 2, 0, 3] == -2


def test_channels_can_be_chosen_and_ordered(rig):
    dataset = rig.dataset(cameras=("CAM_LEFT", "CAM_FRONT"))
    assert [v.channel for v in dataset[0].cameras] == ["CAM_LEFT", "CAM_FRONT"]


def test_every_frame_has_the_order_of_the_first(rig):
    frame = rig.tiny.frame(3)
    frame["images"] = dict(reversed(frame["images"].items()))
    assert [v.channel for v in rig.dataset()[3].cameras] == list(CHANNELS)


def test_what_finding_the_files_again_takes_is_noted(rig):
    loading = rig.dataset(data_prefix={"img": "cams"}).metainfo["loading"]
    prefix = {"pts": "samples/LIDAR_TOP", "sweeps": "sweeps/LIDAR_TOP", "img": "cams"}
    assert loading == {"data_prefix": prefix, "load_dim": 5, "upright": False}


def test_folders_follow_the_prefix(rig):
    folders = {"CAM_FRONT": "elsewhere", "img": ""}
    cameras = rig.dataset(data_prefix=folders).frames[0].cameras
    assert cameras[0].path == str(rig.root / "elsewhere" / "CAM_FRONT_0.jpg")
    assert cameras[1].path == str(rig.root / "CAM_BACK_0.jpg")
    rig.camera(0)["img_path"] = "../../etc/passwd"
    assert rig.dataset().frames[0].cameras[1].path == str(rig.root / "samples/CAM_BACK/passwd")


def test_augmentation_of_pictures_depends_on_the_key_alone(rig):
    first, second = rig.dataset(train=True, seed=2), rig.dataset(train=True, seed=2)
    for index in (2, 0):
        for a, b in zip(first[index].cameras, second[index].cameras, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.img_aug_matrix, b.img_aug_matrix)


def _put(key, value):
    return lambda camera: camera.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda camera: camera.pop("img_path"), r"img_path must be present, got nothing"),
        (_put("cam2img", [[1.0, 2.0]]), r"cam2img must be a finite 3 x 3 matrix, got shape \(1, 2"),
        (_put("cam2img", np.full((3, 3), np.nan)), r"cam2img must be a finite 3 x 3 matrix"),
        (
            _put("cam2img", [[60, 0, 40], [0, 0, 24], [0, 0, 1]]),
            "cam2img must be invertible, got a",
        ),
        (_put("lidar2cam", np.eye(3)), r"lidar2cam must be a finite 4 x 4 matrix"),
        (_put("lidar2cam", np.diag([1, 1, 0, 1])), "lidar2cam must be invertible, got a singular"),
        (_put("lidar2cam", np.full((4, 4), np.inf)), "lidar2cam must be a finite 4 x 4"),
        (lambda camera: camera.update(height="x", width=3), "height must be a finite number"),
    ],
)
def test_wrong_cameras_are_named(rig, change, match):
    change(rig.camera(2))
    with pytest.raises(InfoError, match=rf"train\.pkl, frame 2: images\.CAM_BACK\.{match}"):
        rig.dataset()


def test_a_camera_that_is_named_like_a_path_is_refused(rig):
    images = rig.tiny.frame(0)["images"]
    images["../../elsewhere"] = images["CAM_FRONT"]
    with pytest.raises(InfoError, match=r"images must be of cameras with names that are no paths"):
        rig.dataset()


def test_a_padded_matrix_is_taken_for_intrinsics(rig):
    padded = np.eye(4)
    padded[:3, :3] = rig.camera(0)["cam2img"]
    rig.camera(0)["cam2img"] = padded.tolist()
    np.testing.assert_array_equal(rig.dataset().frames[0].cameras[1].cam2img, padded)


def test_missing_cameras_are_named(rig):
    with pytest.raises(
        InfoError, match=r"frame 0: images must be of a frame with CAM_UP, got CAM_FRONT, CAM_BACK"
    ):
        rig.dataset(cameras=("CAM_FRONT", "CAM_UP"))
    del rig.tiny.frame(4)["images"]["CAM_LEFT"]
    with pytest.raises(
        InfoError, match="frame 4: images must be of a frame with CAM_LEFT, got CAM"
    ):
        rig.dataset()
    rig.tiny.frame(4)["images"] = {}
    with pytest.raises(InfoError, match="with CAM_FRONT, got no camera"):
        rig.dataset()
    for index in range(6):
        rig.tiny.frame(index).pop("images")
    with pytest.raises(InfoError, match="frame 0: images must be present, got nothing"):
        rig.dataset()


def test_no_camera_at_all_is_named(rig):
    for index in range(6):
        rig.tiny.frame(index)["images"] = {}
    with pytest.raises(InfoError, match="frame 0: images must be of a frame with cameras, got no"):
        rig.dataset()


def test_the_size_that_the_info_file_says_counts(rig):
    rig.camera(0).update(height=48, width=80)
    assert rig.dataset()[0].cameras[1].image.shape == (20, 30, 3)
    rig.camera(0).update(height=900, width=1600)
    with pytest.raises(
        SampleError,
        match=r"sample 0 \(token0\) .*image of CAM_BACK: .*CAM_BACK_0\.jpg must be 1600 x 900 as",
    ):
        rig.dataset()[0]


def test_pictures_of_a_frame_must_end_up_equal(rig):
    Image.new("RGB", (64, 48)).save(rig.path("CAM_LEFT", 1))
    assert len(rig.dataset()[1].cameras) == 3
    dataset = NuScenesDataset(
        rig.tiny.save().name,
        rig.root,
        rig.tiny.classes,
        [BEVLoadMultiViewImageFromFiles()],
        modality=MODALITY,
        test_mode=True,
    )
    with pytest.raises(
        SampleError,
        match=r"\(token1\) .*image of CAM_LEFT: .*CAM_LEFT_1\.jpg must end up with the shape of "
        r"CAM_FRONT, \(48, 80, 3\), got \(48, 64, 3\); try ImageAug3D",
    ):
        dataset[1]


@pytest.mark.parametrize("damage", ["truncate", "remove", "text"])
def test_bad_pictures_stop_or_are_skipped(rig, damage):
    path = rig.path("CAM_BACK", 1)
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:900] if damage == "truncate" else b"hello")
    with pytest.raises(
        SampleError,
        match=r"sample 1 \(token1\) .*image of CAM_BACK: .*CAM_BACK_1\.jpg must be.*skip",
    ):
        rig.dataset()[1]
    train = rig.dataset(train=True, on_bad_sample="skip")
    assert train[1].token != "token1"
    assert train.bad_samples() == ["token1"]


def test_a_bad_frame_has_black_pictures_at_test_time(rig):
    rig.path("CAM_FRONT", 0).unlink()
    rig.path("CAM_BACK", 2).write_bytes(b"")
    dataset = rig.dataset(on_bad_sample="skip")
    bad, good = dataset[2], dataset[1]
    assert (bad.token, bad.points_lidar_m.shape) == ("token2", (0, 5))
    for black, view, camera in zip(
        bad.cameras, good.cameras, dataset.frames[2].cameras, strict=True
    ):
        assert black.channel == view.channel
        assert black.image.shape == view.image.shape
        assert not black.image.any()
        np.testing.assert_array_equal(black.img_aug_matrix, view.img_aug_matrix)
        np.testing.assert_array_equal(black.lidar2cam, camera.lidar2cam)
    assert collate([bad, good]).cameras.images.shape == (2, 3, 3, 20, 30)
    assert dataset.bad_samples() == ["token2"]


def test_black_pictures_need_a_readable_frame(rig):
    for index in range(6):
        rig.path("CAM_BACK", index).unlink()
    with pytest.raises(
        SampleError, match=r"must hold a readable frame, got none: no picture tells"
    ):
        rig.dataset(on_bad_sample="skip")[0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"modality": {"use_radar": True}}, "modality must use lidar and cameras alone, got use_r"),
        ({"modality": None, "cameras": ("CAM_FRONT",)}, "cameras must be None where modality has"),
        ({"cameras": ()}, r"cameras must be None or different channels, got \(\)"),
        ({"cameras": ("CAM_FRONT", "CAM_FRONT")}, "cameras must be None or different channels"),
    ],
)
def test_wrong_arguments_are_named(rig, arguments, match):
    with pytest.raises(ValueError, match=match):
        rig.dataset(**arguments)


def test_frames_are_parsed_without_a_data_set(rig):
    path = rig.tiny.save()
    frames = parse_frames(
        load_infos(path), rig.tiny.classes, source=path, image_folder=lambda channel: ""
    )
    assert [c.path for c in frames[0].cameras] == [f"{c}_0.jpg" for c in CHANNELS]
