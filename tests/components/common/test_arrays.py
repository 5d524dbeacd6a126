import numpy as np
import pytest

from components.common.arrays import ArrayWriter, array_shape, join_arrays


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.int64])
@pytest.mark.parametrize("tail", [(), (3, 2), (0, 4)])
def test_joined_files_are_those_of_the_whole_array(tmp_path, dtype, tail):
    whole = (np.random.default_rng(0).random((10, *tail)) * 9).astype(dtype)
    np.save(tmp_path / "whole.npy", whole)
    parts = []
    for number, (start, stop) in enumerate([(0, 4), (4, 4), (4, 9), (9, 10)]):
        parts.append(tmp_path / f"{number}.npy")
        np.save(parts[-1], whole[start:stop])
    assert join_arrays(parts, tmp_path / "joined.npy") == whole.shape == array_shape(tmp_path / "joined.npy")
    assert (tmp_path / "joined.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    with ArrayWriter(tmp_path / "pieces.npy", whole.shape, np.dtype(dtype)) as writer:
        for part in (whole[:3], whole[3:3], whole[3:]):
            writer.write(part)
    assert (tmp_path / "pieces.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_what_does_not_fit_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    np.save(tmp_path / "b.npy", np.zeros((2, 4), np.float32))
    np.save(tmp_path / "c.npy", np.zeros((2, 3), np.float64))
    with pytest.raises(ValueError, match="cannot be joined"):
        join_arrays([tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "joined.npy")
    with pytest.raises(ValueError, match="float64, not float32"):
        join_arrays([tmp_path / "a.npy", tmp_path / "c.npy"], tmp_path / "joined.npy")
    with (
        pytest.raises(ValueError, match="lacks 8 bytes"),
        ArrayWriter(tmp_path / "d.npy", (3,), np.dtype(np.float32)) as writer,
    ):
        writer.write(np.zeros(1, np.float32))
