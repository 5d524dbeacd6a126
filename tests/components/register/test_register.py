"""The ``register`` step's files."""

from components.register.register import copy_shipped_files, folder_digest


def test_a_registered_model_holds_no_row_of_a_patient(tmp_path):
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    for name in ("model.onnx", "contract.json", "vocabulary.json", "predictions.parquet", "record.json"):
        (candidate / name).write_text(name)
    comparison = tmp_path / "comparison"
    comparison.mkdir()
    for name in ("calibration.json", "report.html"):
        (comparison / name).write_text(name)
    shipped = copy_shipped_files(candidate, comparison, tmp_path / "shipped")
    expected = ["calibration.json", "contract.json", "model.onnx", "vocabulary.json"]
    assert sorted(path.name for path in shipped.iterdir()) == expected
    assert (candidate / "predictions.parquet").exists()


def test_a_model_without_a_calibration_is_shipped_too(tmp_path):
    (tmp_path / "candidate").mkdir()
    (tmp_path / "candidate" / "model.onnx").write_text("one")
    shipped = copy_shipped_files(tmp_path / "candidate", tmp_path, tmp_path / "shipped")
    assert [path.name for path in shipped.iterdir()] == ["model.onnx"]


def test_the_digest_changes_with_the_model(tmp_path):
    (tmp_path / "model.onnx").write_text("one")
    first = folder_digest(tmp_path)
    (tmp_path / "model.onnx").write_text("two")
    second = folder_digest(tmp_path)
    (tmp_path / "calibration.json").write_text("{}")
    assert len({first, second, folder_digest(tmp_path)}) == 3
