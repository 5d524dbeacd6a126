import hashlib
import hmac
import os
import re

import numpy as np
import pandas as pd
import pytest

from components.ingest.labels import DISAGREEMENT
from components.ingest.rejections import ABSENT, DUPLICATE, IMPLAUSIBLE, UNKNOWN_PATIENT


def _source(path):
    return {"format": "export", "path": str(path)}


def _times(table):
    return [time.isoformat() for time in table["time"]]


@pytest.fixture
def cohort(export, ingest):
    return ingest(_source(export), demographics=["age", "sex"])


def test_patients_have_pseudonyms_labels_and_no_names(cohort):
    patients = cohort[1].patients
    expected = [
        hmac.new(b"a secret key of tests", mrn, hashlib.sha256).hexdigest()[:16] for mrn in (b"P1", b"P2", b"P3")
    ]
    assert patients["patient_id"].tolist() == expected
    assert patients["label"].tolist() == ["healthy", "diabetes", "diabetes"]
    assert [list(labels) for labels in patients["labels"]] == [["healthy"], ["diabetes"], ["diabetes"]]
    assert patients["sex"].tolist() == ["female", "male", "unknown"]
    assert patients["birth_year"].tolist()[:2] == [1960, 1970]
    assert pd.isna(patients["birth_year"][2])
    assert patients["site"].tolist() == ["north", "south", "north"]
    files = [file for file in cohort[1].folder.iterdir() if file.suffix != ".npy"]
    assert not any(b"Example" in file.read_bytes() for file in files)


def test_values_are_in_canonical_units_and_utc(cohort):
    observations = cohort[1].observations
    first = observations[observations["patient_id"] == cohort[1].patients["patient_id"][0]]
    by_channel = first.set_index("channel")["value"]
    assert by_channel["systolic_pressure"] == 120
    assert by_channel["diastolic_pressure"] == 80
    assert by_channel["heart_rate"] == 70
    # 5 mmol/L of glucose (180.16 g/mol) in mg/dL; 98.6 °F is 37 °C, also where it was typed as °C.
    assert by_channel["blood_glucose"] == pytest.approx(90.08)
    np.testing.assert_allclose(by_channel["body_temperature"], [37.0, 37.0])
    assert cohort[0].metrics["corrected_values"] == 1
    # Berlin is two hours ahead of UTC in July, one in January; a written offset wins.
    assert set(_times(first[first["channel"] == "heart_rate"])) == {"2024-07-01T08:00:00+00:00"}
    second = observations[observations["patient_id"] == cohort[1].patients["patient_id"][1]]
    rates = second[second["channel"] == "heart_rate"]
    assert _times(rates) == ["2024-01-01T05:00:00+00:00", "2024-01-01T09:00:00+00:00"]
    assert rates["value"].tolist() == [81, 80]


def test_parquet_files_are_read_like_csv_files(cohort):
    rows = cohort[1].observations
    third = rows[(rows["patient_id"] == cohort[1].patients["patient_id"][2]) & (rows["channel"] == "heart_rate")]
    assert third["value"].tolist() == [65.5]
    assert _times(third) == ["2024-01-01T09:00:00+00:00"]
    assert third["device_id"].tolist() == ["D3"]


def test_observations_are_sorted_by_patient_channel_and_time(cohort):
    observations = cohort[1].observations
    patients = cohort[1].patients["patient_id"].tolist()
    channels = cohort[1].manifest.channel_names
    order = observations.assign(
        patient=observations["patient_id"].map(patients.index), channel=observations["channel"].map(channels.index)
    )[["patient", "channel", "time"]]
    pd.testing.assert_frame_equal(order, order.sort_values(["patient", "channel", "time"]))


def test_demographics_are_channels_at_the_first_time_stamp(cohort):
    observations = cohort[1].observations
    ages = observations[observations["channel"] == "age"].set_index("patient_id")
    ann, bob, cy = cohort[1].patients["patient_id"]
    assert ages.loc[ann, "value"] == pytest.approx(64, abs=0.01)
    assert ages.loc[bob, "value"] == pytest.approx(54, abs=0.01)
    assert cy not in ages.index
    sexes = observations[observations["channel"] == "sex"].set_index("patient_id")["value"]
    assert sexes.to_dict() == {ann: 0.0, bob: 1.0}
    assert cohort[1].manifest.channel_names[-2:] == ["age", "sex"]


def test_demographics_can_be_written_at_the_last_time_stamp_too(export, ingest):
    _, cohort = ingest(_source(export), demographics=["age"], demographics_at="first_and_last")
    observations = cohort.observations
    bob = observations[
        (observations["patient_id"] == cohort.patients["patient_id"][1]) & (observations["channel"] == "age")
    ]
    assert _times(bob) == ["2024-01-01T05:00:00+00:00", "2024-01-01T09:00:00+00:00"]


def test_every_rejected_row_is_listed_with_file_row_field_and_reason(cohort):
    result, opened = cohort
    found = {tuple(row) for row in opened.rejected.itertuples(index=False)}
    assert found == {
        ("observations/a.csv", 7, "heart_rate", DUPLICATE),
        ("observations/a.csv", 8, "heart_rate", IMPLAUSIBLE),
        ("observations/a.csv", 9, "value", ABSENT),
        ("observations/a.csv", 12, "patient", UNKNOWN_PATIENT),
        ("notes.csv", 3, "text", ABSENT),
        ("annotations.csv", 9, "label", DISAGREEMENT),
    }
    assert result.metrics["rejected_rows"] == 6
    assert result.metrics["rejected/duplicate_row"] == 1
    assert all(re.fullmatch(r"[\w/]+", name) for name in result.metrics)
    assert f"1 row rejected: {IMPLAUSIBLE}" in result.warnings
    assert opened.manifest.counts["rejected"] == 6


def test_rows_that_hold_no_channel_are_counted_and_not_rejected(cohort):
    assert cohort[0].metrics["not_used_rows"] == 1
    assert cohort[0].metrics["not_used_kinds"] == 1


def test_certificate_of_a_blood_pressure_holds_for_both_channels(cohort):
    devices = cohort[1].devices.set_index(["device_id", "channel"])
    assert set(devices.index) == {("D1", "systolic_pressure"), ("D1", "diastolic_pressure"), ("D1", "heart_rate")}
    assert devices.loc[("D1", "diastolic_pressure")].tolist() == [1.02, 1.5, 30.0]


def test_notes_keep_their_lines_and_annotations_their_agreement(cohort):
    assert cohort[1].notes["text"].tolist() == ["Thirsty, no chest pain\nsecond line"]
    # Agreement on 2 of 4 where chance gives .75 * .25 + .25 * .75: kappa = (.5 - .375) / (1 - .375).
    assert cohort[0].metrics["annotator_kappa"] == pytest.approx(0.2)
    assert len(cohort[1].table("annotations")) == 7


def test_images_of_any_depth_and_size_share_one_array(cohort):
    index, images = cohort[1].image_index, cohort[1].images
    assert images.shape == (3, 4, 6, 1)
    assert images.dtype == np.float32
    by_patient = dict(zip(index["patient_id"], index["row"], strict=True))
    levels = [float(images[by_patient[patient]].mean()) for patient in cohort[1].patients["patient_id"]]
    np.testing.assert_allclose(levels, [51 / 255, 32768 / 65535, 1.0], atol=1e-6)
    assert index["modality"].tolist() == ["CT", "XR", "XR"]
    assert cohort[1].manifest.image.model_dump() == {"height": 4, "width": 6, "channels": 1}


def test_image_size_can_be_chosen(export, ingest):
    assert ingest(_source(export), image_size=[2, 3])[1].images.shape == (3, 2, 3, 1)


def test_content_does_not_depend_on_key_or_file_times(export, ingest):
    _, one = ingest(_source(export))
    for file in export.rglob("*.csv"):
        os.utime(file, (1, 1))
    _, two = ingest(_source(export), key=b"quite another key", output="again")
    assert one.manifest.digest == two.manifest.digest
    assert one.patients["patient_id"].tolist() != two.patients["patient_id"].tolist()
    pd.testing.assert_frame_equal(
        one.observations.drop(columns="patient_id"), two.observations.drop(columns="patient_id")
    )


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("observations/a.csv", "P1,D1,heart_rate,2024-07-01T10:00:00,70", "P1,D1,heart_rate,2024-07-01T10:00:00,71"),
        ("notes.csv", "Thirsty", "thirsty"),
        ("devices.csv", "1.02", "1.03"),
        ("annotations.csv", "P3,first,Z3,2024-08-01", "P3,first,Z3,2024-08-03"),
    ],
)
def test_digest_changes_with_the_content(export, ingest, file, old, new):
    _, before = ingest(_source(export))
    text = (export / file).read_text()
    assert old in text
    (export / file).write_text(text.replace(old, new))
    assert ingest(_source(export), output="changed")[1].manifest.digest != before.manifest.digest


def test_chosen_channels_come_in_their_order(export, ingest):
    result, cohort = ingest(_source(export), channels=["heart_rate", "body_temperature"], demographics=["sex"])
    assert cohort.manifest.channel_names == ["heart_rate", "body_temperature", "sex"]
    assert set(cohort.observations["channel"]) == {"heart_rate", "body_temperature", "sex"}
    # Two pressures and a glucose are not selected; the steps are no channel.
    assert result.metrics["not_used_rows"] == 4


def test_manifest_names_sources_and_says_that_they_are_synthetic(cohort):
    manifest = cohort[1].manifest
    names = [source.name for source in manifest.sources]
    assert "patients.csv" in names
    assert "images (3 files)" in names
    assert manifest.provenance["synthetic"] is True
    assert manifest.counts["patients"] == 3


def test_modalities_can_be_missing_for_the_whole_cohort(export, ingest):
    for name in ("notes.csv", "devices.csv", "images/images.csv"):
        (export / name).unlink()
    _, cohort = ingest(_source(export))
    assert cohort.manifest.image is None
    assert cohort.images.shape == (0, 0, 0, 0)
    assert cohort.notes.empty
    assert cohort.devices.empty


def test_patient_without_any_modality_is_rejected(export, ingest):
    (export / "observations" / "b.parquet").unlink()
    (export / "images" / "images.csv").write_text("mrn,time,modality,file\n")
    text = (export / "annotations.csv").read_text()
    (export / "annotations.csv").write_text(text.replace("P4,second,Z3", "P4,second,Z1"))
    _, cohort = ingest(_source(export))
    assert len(cohort.patients) == 3
    reasons = cohort.rejected.set_index("file")["reason"]
    assert reasons["patients.csv"] == "patient has no observation, note or image"
