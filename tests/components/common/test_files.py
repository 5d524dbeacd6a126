import pytest

from components.common.files import atomic_file, atomic_folder


def test_file_appears_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new" / "a.txt"
    with atomic_file(target) as path:
        path.write_text("x")
        assert not target.exists()
    assert target.read_text() == "x"
    assert [item.name for item in target.parent.iterdir()] == ["a.txt"]


def test_failed_file_leaves_the_old_one_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_folder_replaces_the_old_one_as_a_whole(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "stale").touch()
    with atomic_folder(target) as folder:
        (folder / "fresh").touch()
    assert [path.name for path in target.iterdir()] == ["fresh"]


def test_failed_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
