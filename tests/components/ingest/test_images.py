import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.ingest import images as module
from components.ingest.images import common_shape, decode_image, decode_images, read_images
from components.ingest.rejections import Rejections
from data_schemas.errors import InputError


def _index(paths):
    count = len(paths)
    return pd.DataFrame(
        {
            "key": "p",
            "time": pd.NaT,
            "modality": "m",
            "path": [str(path) for path in paths],
            "file": "i",
            "row": range(2, count + 2),
        }
    )


def _read(index, size, rejections, folder):
    """Decode, and bring to the shape that the cohort would have."""
    decoded = decode_images(index, size, folder / "pixels.f32", rejections)
    parts = list(read_images(decoded, folder / "pixels.f32", common_shape(decoded)))
    return decoded, np.concatenate(parts)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255]], dtype=np.uint8), [[[0.0], [1.0]]]),
        (np.array([[0, 65535]], dtype=np.uint16), [[[0.0], [1.0]]]),
        (np.array([[False, True]]), [[[0.0], [1.0]]]),
        (np.array([[[255, 0, 51]]], dtype=np.uint8), [[[1.0, 0.0, 0.2]]]),
    ],
)
def test_depths(tmp_path, array, expected):
    Image.fromarray(array).save(tmp_path / "a.png")
    pixels = decode_image(tmp_path / "a.png")
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_palette_and_transparency_become_colours(tmp_path):
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 128))
    image.save(tmp_path / "a.png")
    image.convert("P").save(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        np.testing.assert_allclose(decode_image(tmp_path / name)[0, 0], [1, 0, 0])


def test_grey_is_repeated_beside_colours_and_the_common_size_wins(tmp_path):
    Image.new("L", (4, 2), 51).save(tmp_path / "grey.png")
    Image.new("RGB", (4, 2), (255, 0, 0)).save(tmp_path / "red.png")
    Image.new("L", (9, 9), 102).save(tmp_path / "large.png")
    paths = [tmp_path / n for n in ("grey.png", "red.png", "large.png")]
    index, images = _read(_index(paths), None, Rejections("fail"), tmp_path)
    assert images.shape == (3, 2, 4, 3)
    np.testing.assert_allclose(images[0], 0.2, atol=1e-6)
    np.testing.assert_allclose(images[2], 0.4, atol=1e-6)
    assert len(index) == 3


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_resizing_stays_within_the_range_of_the_image(tmp_path_factory, seed, size):
    path = tmp_path_factory.mktemp("images") / "a.png"
    array = np.random.default_rng(seed).integers(20, 200, (17, 23), dtype=np.uint8)
    Image.fromarray(array).save(path)
    _, images = _read(_index([path]), size, Rejections("fail"), path.parent)
    assert images.shape == (1, *size, 1)
    assert images.min() >= array.min() / 255 - 1e-6
    assert images.max() <= array.max() / 255 + 1e-6


@pytest.mark.parametrize("content", [b"", b"no image", "truncated"])
def test_files_that_are_no_image(tmp_path, content):
    path = tmp_path / "a.png"
    if content == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:400]
    path.write_bytes(content)
    with pytest.raises(InputError, match="i, row 2, field file: image is truncated or cannot be read"):
        decode_images(_index([path]), None, tmp_path / "pixels.f32", Rejections("fail"))
    rejections = Rejections("reject")
    assert decode_images(_index([path]), None, tmp_path / "pixels.f32", rejections).empty
    assert len(rejections.table()) == 1


def test_images_are_the_same_read_one_by_one_or_together(tmp_path, monkeypatch):
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        size = (5, 4) if number in (2, 3) else (6, 4)
        array = np.random.default_rng(number).integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(array).save(path)
    (tmp_path / "4.png").write_bytes(b"")
    _, together = _read(_index(paths), None, Rejections("reject"), tmp_path)
    monkeypatch.setattr(module, "PIXELS", 30)
    _, alone = _read(_index(paths), None, Rejections("reject"), tmp_path)
    assert together.shape == (6, 6, 4, 1)
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together[5], decode_image(paths[6]))


def test_the_first_of_two_equally_common_sizes_wins():
    shapes = pd.DataFrame({"height": [9, 2, 2, 9], "width": [9, 4, 4, 9], "depth": [1, 1, 3, 1]})
    assert common_shape(shapes) == (9, 9, 3)
