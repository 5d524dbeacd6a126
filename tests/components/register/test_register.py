"""The ``register`` step's files."""

from components.register.register import copy_shipped_files, folder_digest


def test_a_registered_model_holds_no_row_of_a_patient(tmp_path):
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    for name in ("model.onnx", "contract.json", "vocabulary.json", "predictions.parquet", "record.json"):
        (candidate / name).write_text(name)
    shipped = copy_shipped_files(candidate, tmp_path / "shipped")
    assert sorted(path.name for path in shipped.iterdir()) == ["contract.json", "model.onnx", "vocabulary.json"]
    assert (candidate / "predictions.parquet").exists()
    assert folder_digest(shipped) == folder_digest(candidate)


def test_the_digest_changes_with_the_model(tmp_path):
    (tmp_path / "model.onnx").write_text("one")
    first = folder_digest(tmp_path)
    (tmp_path / "model.onnx").write_text("two")
    assert folder_digest(tmp_path) != first
