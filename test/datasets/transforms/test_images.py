"""Loading and augmentation of pictures against a plain Pillow program and the reference's."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from anybev.datasets.infos import CameraInfo, FrameInfo
from anybev.datasets.nuscenes import NuScenesDataset
from anybev.datasets.sample import CameraView, Sample, collate
from anybev.datasets.transforms import BEVLoadMultiViewImageFromFiles, GridMask, ImageAug3D
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


def test_unequal_pictures_end_up_equal(rng):
    cameras = _views(1) + _views(1, 120, 200)
    cameras = ImageAug3D((40, 70), *TEST[1:])(Sample("t", 0, cameras=cameras), rng).cameras
    assert [view.image.shape for view in cameras] == [(40, 70, 3)] * 2
    np.testing.assert_allclose(cameras[1].img_aug_matrix[:2, 3], [-13, -17])  # 96 x 57


def test_augmenting_twice_multiplies_the_matrices(rng):
    once, twice = ImageAug3D((40, 70), *TEST[1:]), ImageAug3D((20, 30), *TEST[1:])
    sample = twice(once(Sample("t", 0, cameras=_views(1)), rng), rng)
    found = sample.cameras[0].img_aug_matrix @ [100, 50, 7, 1]
    first = np.array([100, 50]) * 0.48 - [3, 3]
    np.testing.assert_allclose(found, [*(first * 0.48 - [1, -1]), 7, 1])  # 33 x 19


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"path": "gone.jpg"}, "image of CAM_1: gone.jpg must be an existing file, got none"),
        ({"size": (900, 1600)}, r"1\.jpg must be 1600 x 900 as the info file says, got 160 x 90"),
    ],
)
def test_pictures_are_checked(on_disk, rng, change, match):
    first, second = on_disk.frame.cameras
    on_disk.frame = replace(on_disk.frame, cameras=(first, replace(second, **change)))
    with pytest.raises((FileNotFoundError, ValueError), match=match):
        BEVLoadMultiViewImageFromFiles()(on_disk, rng)


def test_frames_must_have_their_cameras(on_disk, rng):
    with pytest.raises(ValueError, match=r"num_views=6 cameras, got 2: CAM_0, CAM_1"):
        BEVLoadMultiViewImageFromFiles(num_views=6)(on_disk, rng)
    for sample in (Sample("t", 0), Sample("t", 0, frame=_frame([]))):
        with pytest.raises(ValueError, match=r"a frame with cameras, got none; try modality=dict"):
            BEVLoadMultiViewImageFromFiles()(sample, rng)


def test_a_picture_must_not_vanish(rng):
    sample = Sample("t", 0, cameras=_views(1, 1, 1))
    with pytest.raises(ValueError, match=r"image of CAM_0 must keep a pixel when .*0\.48, got 1 x"):
        ImageAug3D(*TEST)(sample, rng)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: BEVLoadMultiViewImageFromFiles(backend_args={}), "backend_args must be None"),
        (
            lambda: BEVLoadMultiViewImageFromFiles(color_type="grayscale"),
            "color_type must be color or unchanged, got 'grayscale'",
        ),
        (lambda: BEVLoadMultiViewImageFromFiles(num_views=0), "num_views must be None or at least"),
        (lambda: BEVLoadMultiViewImageFromFiles(num_ref_frames=1), "num_ref_frames must be 0 or l"),
        (
            lambda: BEVLoadMultiViewImageFromFiles(decoder="nvjpeg"),
            "decoder must be pillow or fast, got 'nvjpeg'",
        ),
        (lambda: ImageAug3D((256,), *TEST[1:]), r"final_dim must be \(height, width\)"),
        (lambda: ImageAug3D((0, 7), *TEST[1:]), r"final_dim must be .* got \(0, 7\)"),
        (lambda: ImageAug3D((9, 7), (0.5, 0.4), *TEST[2:]), r"resize_lim must be \(low, high\)"),
        (lambda: ImageAug3D((9, 7), 0.9, *TEST[2:]), r"resize_lim must be \(low, high\).*got 0\.9"),
        (lambda: ImageAug3D(9, *TEST[1:]), r"final_dim must be \(height, width\) .*, got 9"),
        (lambda: ImageAug3D(*TEST[:2], (0, 2), *TEST[3:]), r"bot_pct_lim must be .*within 0\.\.1"),
        (lambda: ImageAug3D(*TEST[:3], (-400, 0), *TEST[4:]), "rot_lim must be"),
        (
            lambda: ImageAug3D(*TEST, resampler="area"),
            "resampler must be pillow or fast, got 'area",
        ),
        (lambda: GridMask(True, True, 0), "max_epoch must be at least 1, got 0"),
        (lambda: GridMask(True, True, 1, rotate=0), "rotate must be at least 1, got 0"),
        (
            lambda: GridMask(True, True, 1, offset=True),
            r"offset must be False \(pictures are uint8",
        ),
        (lambda: GridMask(True, True, 1, ratio=2.0), r"ratio must be in 0\.\.1, got 2\.0"),
        (lambda: GridMask(True, True, 1, mode=2), "mode must be 0 or 1, got 2"),
        (lambda: GridMask(True, True, 1, prob=1.5), r"prob must be in 0\.\.1, got 1\.5"),
    ],
)
def test_wrong_arguments_are_named(build, match):
    with pytest.raises(ValueError, match=match):
        build()
