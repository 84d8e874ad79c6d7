"""Loading and augmentation of pictures against a plain Pillow program and the reference's."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from anybev.datasets.infos import CameraInfo, FrameInfo
from anybev.datasets.nuscenes import NuScenesDataset
from anybev.datasets.sample import CameraView, Sample, collate
from anybev.datasets.transforms import BEVLoadMultiViewImageFromFiles, ImageAug3D
from anybev.testing.golden import GoldenPack

PATHS = ["pillow", "fast"]
TEST = ([256, 704], [0.48, 0.48], [0.0, 0.0], [0.0, 0.0], False, False)
TRAIN = ([256, 704], [0.38, 0.55], [0.0, 0.0], [-5.4, 5.4], True, True)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def _frame(cameras):
    eye, none, labels = np.eye(4), np.zeros((0, 9), np.float32), np.zeros(0, np.int64)
    return FrameInfo("t", 10.0, "", (), eye, eye, none, labels, labels, 0, tuple(cameras))


def _views(count, height=90, width=160):
    images = np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8)
    return [CameraView(f"CAM_{i}", image, np.eye(4), np.eye(4)) for i, image in enumerate(images)]


@pytest.fixture
def on_disk(tmp_path):
    """A sample of two cameras, their pictures on disk."""
    cameras = []
    for i, view in enumerate(_views(2)):
        path = tmp_path / f"{i}.jpg"
        Image.fromarray(view.image).save(path, quality=90)
        cameras.append(CameraInfo(view.channel, str(path), np.diag([5.0, 6, 1, 1]), np.eye(4)))
    return Sample("t", 0, frame=_frame(cameras))


@pytest.mark.parametrize("path", PATHS)
def test_the_real_frame_gives_the_reference_inputs(test_data, path):
    root = test_data / "data" / "nuscenes_frame"
    (info,) = root.glob("*.pkl")
    dataset = NuScenesDataset(
        info,
        root,
        ("car",),
        [
            BEVLoadMultiViewImageFromFiles(to_float32=True, color_type="color", decoder=path),
            ImageAug3D(*TEST, resampler=path),
        ],
        data_prefix={"img": ""},
        modality={"use_lidar": True, "use_camera": True},
        test_mode=True,
    )
    cameras = collate([dataset[0]]).cameras
    pack = GoldenPack.load(test_data / "golden" / "pack_a.npz").arrays
    expected = np.cumsum(pack["input/images_dx"], axis=2, dtype=np.uint8)
    np.testing.assert_array_equal(cameras.images[0].permute(0, 2, 3, 1), expected)
    for name in ("cam2img", "img_aug_matrix"):
        np.testing.assert_array_equal(
            getattr(cameras, name)[0], pack[f"input/{name}"].astype(np.float32)
        )
    for name in ("lidar2img", "cam2lidar"):
        np.testing.assert_allclose(
            getattr(cameras, name)[0], pack[f"input/{name}"], rtol=1e-6, atol=1e-6
        )


def _pillow_program(path, aug, rng):
    """What the configs ask for, with nothing but Pillow and the order of the draws."""
    (final_h, final_w), train = aug[0], aug[5]
    picture = Image.open(path).convert("RGB")
    resize = rng.uniform(*aug[1]) if train else np.mean(aug[1])
    cut = rng.uniform(*aug[2]) if train else np.mean(aug[2])
    w, h = int(picture.width * resize), int(picture.height * resize)
    top = int((1 - cut) * h) - final_h
    left = int(rng.uniform(0, max(0, w - final_w))) if train else max(0, w - final_w) // 2
    picture = picture.resize((w, h)).crop((left, top, left + final_w, top + final_h))
    if train and aug[4] and rng.integers(2):
        picture = picture.transpose(Image.FLIP_LEFT_RIGHT)
    return np.asarray(picture.rotate(rng.uniform(*aug[3]) if train else 0))


@pytest.mark.parametrize("path", PATHS)
def test_real_pictures_are_augmented_as_pillow_does(test_data, path):
    files = sorted((test_data / "data" / "nuscenes_frame").glob("*__CAM_*.jpg"))
    cameras = [CameraInfo(f"CAM_{i}", str(p), np.eye(4), np.eye(4)) for i, p in enumerate(files)]
    load, augment = BEVLoadMultiViewImageFromFiles(decoder=path), ImageAug3D(*TRAIN, resampler=path)
    sample = load(Sample("t", 0, frame=_frame(cameras)), None)
    augment(sample, np.random.default_rng(5))
    rng = np.random.default_rng(5)
    for view, file in zip(sample.cameras, files, strict=True):
        np.testing.assert_array_equal(view.image, _pillow_program(file, TRAIN, rng))


@pytest.mark.parametrize("path", PATHS)
def test_pictures_come_in_the_order_of_the_frame(on_disk, rng, path):
    sample = BEVLoadMultiViewImageFromFiles(num_views=2, decoder=path)(on_disk, rng)
    assert [view.channel for view in sample.cameras] == ["CAM_0", "CAM_1"]
    for view, camera in zip(sample.cameras, sample.frame.cameras, strict=True):
        np.testing.assert_array_equal(view.image, np.asarray(Image.open(camera.path)))
        np.testing.assert_array_equal(view.cam2img, camera.cam2img)
        np.testing.assert_array_equal(view.img_aug_matrix, np.eye(4))
        assert view.image.flags.writeable


def test_each_camera_draws_for_itself_and_by_the_generator_alone():
    def augmented(seed):
        sample = ImageAug3D((40, 70), *TRAIN[1:])(
            Sample("t", 0, cameras=_views(6)), np.random.default_rng(seed)
        )
        return sample.cameras

    first, again, other = augmented(1), augmented(1), augmented(2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.img_aug_matrix, b.img_aug_matrix)
    matrices = [view.img_aug_matrix for view in first]
    assert not any(np.array_equal(a, b) for a, b in pairwise(matrices))
    assert not np.array_equal(matrices[0], other[0].img_aug_matrix)


def test_the_test_mode_is_fixed_and_draws_nothing(rng):
    before = rng.bit_generator.state
    (view,) = ImageAug3D((40, 70), *TEST[1:])(Sample("t", 0, cameras=_views(1)), rng).cameras
    assert rng.bit_generator.state == before
    expected = np.eye(4)
    expected[:2] = [[0.48, 0, 0, -3], [0, 0.48, 0, -3]]  # 76 x 43 -> 70 x 40
    np.testing.assert_allclose(view.img_aug_matrix, expected, rtol=1e-12)
    assert view.image.shape == (40, 70, 3)
