"""Pictures by formula: like photos in what matters, all different, there whole or not at all."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from apps.benchmarks import pictures
from finetune_kit.data import decode


def size_of(image):
    """Returns the bytes of an image of 500 x 375 pixels as JPEG of quality 90."""
    file = io.BytesIO()
    image.crop((0, 0, 569, 427)).resize((500, 375), Image.Resampling.LANCZOS).save(
        file, "JPEG", quality=90
    )
    return len(file.getvalue())


def test_photos_are_as_large_as_real_ones(tmp_path) -> None:
    root = pictures.write_photos(tmp_path / "photos", 10)
    sizes = [path.stat().st_size for path in root.rglob("*.jpg")]
    real = [size_of(Image.fromarray(i)) for i in datasets.load_sample_images().images]
    assert min(real) < min(sizes) and np.mean(sizes) < 1.1 * max(real)
    with Image.open(next(root.rglob("*.jpg"))) as image:
        assert image.size == (500, 375) and image.mode == "RGB"


def test_a_number_makes_one_photo() -> None:
    np.testing.assert_array_equal(pictures.photo(3), pictures.photo(3))
    assert np.abs(pictures.photo(3).astype(float) - pictures.photo(4)).mean() > 20


def test_coarse_structure_is_stronger_than_fine() -> None:
    grey = pictures.photo(0).mean(axis=2)
    spectrum = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
    y, x = np.meshgrid(np.fft.fftfreq(375), np.fft.fftfreq(500), indexing="ij")
    frequency = np.hypot(y, x)
    bands = [spectrum[(frequency > low) & (frequency <= 4 * low)].mean() for low in (0.004, 0.016)]
    finest = spectrum[frequency > 0.25].mean()
    assert bands[0] > 5 * bands[1] > 25 * finest > 0


def test_photos_stand_in_train_and_one_a_class_in_test(tmp_path) -> None:
    root = pictures.write_photos(tmp_path / "photos", 23)
    counts = {
        split: [len(list(folder.iterdir())) for folder in sorted((root / split).iterdir())]
        for split in ("train", "test")
    }
    assert counts == {"train": [3, 3, 3, 2, 2, 2, 2, 2, 2, 2], "test": [1] * 10}
    assert len({path.read_bytes() for path in root.rglob("*.jpg")}) == 33


def test_tiny_pictures_differ_in_bytes_and_repeat_in_pixels(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "DISTINCT", 4)
    root = pictures.write_tiny(tmp_path / "tiny", 30)
    paths = sorted(root.rglob("*.jpg"), key=lambda path: path.name)
    contents = [path.read_bytes() for path in paths]
    assert len(set(contents)) == 30 and len(list(root.iterdir())) == pictures.CLASSES
    pixels = [decode.decode(content) for content in contents]
    assert pixels[0].shape == (64, 64, 3)
    for number, image in enumerate(pixels):
        assert np.array_equal(image, pixels[number % 4])
    assert len({image.tobytes() for image in pixels}) == 4


def test_a_comment_leaves_the_picture_alone() -> None:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), "teal").save(file, "JPEG")
    with Image.open(io.BytesIO(pictures.commented(file.getvalue(), "of mine"))) as image:
        assert image.info["comment"] == b"of mine"
        assert decode.decode(file.getvalue()).tobytes() == np.asarray(image).tobytes()


def test_a_folder_is_written_once_and_whole(tmp_path, monkeypatch) -> None:
    root = tmp_path / "tiny"
    write = pathlib.Path.write_bytes

    def break_off(path, content):
        if path.name == "000007.jpg":
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(pathlib.Path, "write_bytes", break_off)
    with pytest.raises(KeyboardInterrupt):
        pictures.write_tiny(root, 12)
    assert not root.exists()
    monkeypatch.undo()
    assert len(list(pictures.write_tiny(root, 12).rglob("*.jpg"))) == 12
    kept = root / "class_0" / "000000.jpg"
    kept.write_bytes(b"seen")
    pictures.write_tiny(root, 12)
    assert kept.read_bytes() == b"seen" and list(tmp_path.iterdir()) == [root]
