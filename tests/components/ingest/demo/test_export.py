import hashlib

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from components.ingest.demo import export as export_module
from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings

SMALL = {"patients": 60, "days": 3, "seed": 5, "image_size": (24, 20)}


def _digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_settings_give_the_same_bytes(export, tmp_path):
    generate_source(tmp_path / "again", DemoSettings(**SMALL))
    assert _digests(tmp_path / "again") == _digests(export)


def test_another_seed_gives_other_patients(export, tmp_path):
    generate_source(tmp_path / "other", DemoSettings(**{**SMALL, "seed": 6}))
    other, same = _digests(tmp_path / "other"), _digests(export)
    for name in ("patients.csv", "notes.csv", "devices.csv", "annotations.csv", "observations/part-0000.csv"):
        assert other[name] != same[name]


def test_tables_have_the_columns_of_the_layout(export, observations):
    columns = {path.name: list(pd.read_csv(path).columns) for path in export.glob("*.csv")}
    assert columns == {
        "patients.csv": ["mrn", "name", "sex", "birth_date", "site"],
        "devices.csv": ["device_id", "measurement", "gain", "bias", "clock_offset_seconds"],
        "notes.csv": ["mrn", "time", "text"],
        "annotations.csv": ["mrn", "annotator", "label", "time"],
    }
    assert list(observations.columns) == ["mrn", "device_id", "measurement", "time", "value", "unit"]
    assert list(pd.read_csv(export / "images" / "images.csv").columns) == ["mrn", "time", "modality", "file"]
    source = yaml.safe_load((export / "source.yaml").read_text(encoding="utf-8"))
    assert source["synthetic"] is True
    assert source["class_labels"]["Z3"] == "diabetes"
    assert source["time_zone"] == "Europe/Berlin"


def test_rows_are_about_listed_patients_and_in_order(export, observations):
    patients = pd.read_csv(export / "patients.csv")["mrn"]
    assert len(patients) == 60
    assert set(observations["mrn"]) <= set(patients)
    assert observations["mrn"].drop_duplicates().tolist() == [
        mrn for mrn in patients if mrn in set(observations["mrn"])
    ]
    times = pd.to_datetime(observations["time"])
    assert times.groupby(observations["mrn"]).apply(lambda time: time.is_monotonic_increasing).all()


def test_most_devices_have_a_certificate_but_not_all(export, observations):
    certified = observations["device_id"].isin(pd.read_csv(export / "devices.csv")["device_id"])
    assert 0.75 < certified.mean() < 1


def test_images_have_8_or_16_bits(export):
    index = pd.read_csv(export / "images" / "images.csv")
    kinds = []
    for file in index["file"]:
        with Image.open(export / "images" / file) as image:
            assert image.size == (20, 24)
            kinds.append(image.mode)
            pixels = np.asarray(image)
            assert pixels.max() > (100 if image.mode == "L" else 255)
    assert set(kinds) == {"L", "I;16"}
    assert len(list((export / "images").glob("*.png"))) == len(index)


def test_parquet_holds_the_same_observations(observations, tmp_path):
    generate_source(tmp_path / "parquet", DemoSettings(**SMALL, file_format="parquet"))
    table = pd.read_parquet(tmp_path / "parquet" / "observations" / "part-0000.parquet")
    table["time"] = table["time"].dt.strftime("%Y-%m-%d %H:%M:%S")
    assert table.to_numpy().tolist() == observations.to_numpy().tolist()


def test_a_modality_can_be_left_out(tmp_path):
    generate_source(tmp_path / "series", DemoSettings(**SMALL, missing_images=1, missing_notes=1, missing_series=0))
    assert not (tmp_path / "series" / "images").exists()
    assert not (tmp_path / "series" / "notes.csv").exists()


def test_blocks_bound_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "BLOCK", 25)
    told = []
    generate_source(tmp_path / "blocks", DemoSettings(**SMALL, missing_series=0), told.append)
    files = sorted((tmp_path / "blocks" / "observations").iterdir())
    patients = pd.read_csv(tmp_path / "blocks" / "patients.csv")["mrn"]
    assert [pd.read_csv(file)["mrn"].nunique() for file in files] == [25, 25, 10]
    assert set(pd.concat([pd.read_csv(file) for file in files])["mrn"]) == set(patients)
    assert told == ["patients 1 to 25 of 60", "patients 26 to 50 of 60", "patients 51 to 60 of 60", "done"]


def test_nothing_is_left_half_written(tmp_path):
    def fail(text):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        generate_source(tmp_path / "broken", DemoSettings(**SMALL), fail)
    assert not list(tmp_path.iterdir())
