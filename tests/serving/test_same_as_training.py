"""What is served is what was evaluated: raw patients give the arrays, and the probabilities, of the pipeline."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from components.ingest.ingest import ingest_sources
from components.ingest.pseudonyms import pseudonyms
from components.ingest.settings import IngestSettings
from components.preprocess.preprocess import preprocess_cohort
from components.preprocess.settings import PreprocessSettings
from data_schemas.channels import load_catalogue
from data_schemas.cohort import write_table
from data_schemas.features import MODALITIES, Features
from serving.patients import Patient, parse_patients
from serving.predictor import Predictor
from serving.preparation import Preparer
from tests.serving.hospital import raw_patients

KEY = b"key of tests"
WORDS = ["", "<unknown>", "chest", "pain", "not_chest"]
MISSING = {"missing_series": 0.2, "missing_images": 0.3, "missing_notes": 0.3}


class Prepared(NamedTuple):
    features: Features
    preparer: Preparer
    patients: list[Patient]


def _steps(folder: Path, *, ingest: dict, preprocess: dict, patients: int = 60, **demo) -> None:
    """Run a generated source through ingest and preprocess; write every patient's request beside the features."""
    demo = {"days": 3, "image_size": (16, 16), "seed": 3, **MISSING} | demo
    generate_source(folder / "source", DemoSettings(patients=patients, **demo))
    section = {"name": "tiny", "sources": [{"format": "export", "path": str(folder / "source")}], **ingest}
    ingest_sources(folder / "cohort", IngestSettings.model_validate(section), pseudonym_key=KEY)
    chosen = PreprocessSettings.model_validate({"folds": 2, "test_fraction": 0.3, **preprocess})
    preprocess_cohort(folder / "cohort", folder / "features", chosen)
    requests = raw_patients(folder / "source")
    by_id = dict(zip(pseudonyms(pd.Series(list(requests)), KEY), requests.values(), strict=True))
    ordered = [by_id[patient] for patient in Features.open(folder / "features").samples["patient_id"]]
    (folder / "requests.json").write_text(json.dumps(ordered))


def prepare_like(features: Features, folder: Path) -> Preparer:
    """The preparation of a model of these features, without a model."""
    folder.mkdir(parents=True)
    manifest = features.manifest
    load_catalogue().write(folder / "channels.json")
    write_table(folder, "devices", features.devices)
    (folder / "vocabulary.json").write_text(json.dumps(WORDS))
    modalities = [name for name, found in zip(MODALITIES, features.present.any(axis=0), strict=True) if found]
    contract = manifest.model_dump(mode="json") | {"modalities": modalities, "text_length": 12}
    return Preparer.load(folder, contract)


@pytest.fixture(
    scope="module",
    params=[
        # As in the demo's settings file.
        {"ingest": {}, "preprocess": {"step": "6h", "steps": 12}},
        # Facts on patients at both ends, the last of a cell, a window that starts at the first reading, other units.
        {
            "ingest": {"demographics": ["age", "sex"], "demographics_at": "first_and_last", "image_size": [12, 20]},
            "preprocess": {
                "step": "2h",
                "steps": 8,
                "anchor": "first",
                "aggregate": "last",
                "later_documents": "drop",
                "series_sigma": 1.5,
                "outlier_deviations": 3.0,
            },
            "deep_image_fraction": 0.5,
        },
        # A window that most readings lie before, nothing calibrated, some channels only.
        {
            "ingest": {"channels": ["blood_glucose", "heart_rate", "age"], "demographics": ["age"]},
            "preprocess": {"step": "1h", "steps": 4, "calibrate": False, "image_sigma": 0, "longest_gap": 1},
        },
    ],
    ids=["demo", "first", "short"],
)
def prepared(request, tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    _steps(folder, **request.param)
    features = Features.open(folder / "features")
    patients = parse_patients(json.loads((folder / "requests.json").read_text()))
    return Prepared(features, prepare_like(features, folder / "model"), patients)


def test_raw_patients_give_the_arrays_of_training(prepared):
    features, preparer, patients = prepared
    batch = preparer.prepare(patients)
    assert not any(batch.faults[row] for row in np.flatnonzero(features.present.any(axis=1)))
    assert not features.present.all(), "the test needs patients who lack a modality"
    np.testing.assert_array_equal(batch.present, features.present)
    np.testing.assert_array_equal(batch.inputs["series"], features.series)
    np.testing.assert_array_equal(batch.inputs["series_observed"], features.series_observed)
    np.testing.assert_array_equal(batch.inputs["image"], features.images)
    alone = preparer.prepare([Patient(note=text) for text in features.texts])
    np.testing.assert_array_equal(batch.inputs["tokens"], alone.inputs["tokens"])


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_neither_order_nor_time_zone_nor_company_matters(prepared, data):
    """A patient's arrays are the same alone, in any batch, with readings in any order, in any time zone."""
    _, preparer, patients = prepared
    chosen = data.draw(st.lists(st.integers(0, len(patients) - 1), min_size=1, max_size=4))
    together = preparer.prepare([patients[place] for place in chosen])
    place = data.draw(st.integers(0, len(chosen) - 1))
    patient = patients[chosen[place]]
    random = data.draw(st.randoms(use_true_random=False))

    def moved(time: datetime) -> datetime:
        return time.astimezone(timezone(timedelta(minutes=random.randrange(-1439, 1440))))

    readings = [reading.model_copy(update={"time": moved(reading.time)}) for reading in patient.observations]
    random.shuffle(readings)
    notes = [note.model_copy(update={"time": moved(note.time)}) for note in patient.note]
    random.shuffle(notes)
    alone = preparer.prepare([patient.model_copy(update={"observations": readings, "note": notes})])
    for name, values in alone.inputs.items():
        np.testing.assert_array_equal(values[0], together.inputs[name][place])
    assert [len(faults) for faults in alone.faults] == [len(together.faults[place])]
    assert sorted(alone.warnings[0]) == sorted(together.warnings[place])


def test_a_reading_more_tells_what_a_reading_less_does_not(prepared):
    """The invariances would hold for a preparer that reads nothing; this one does read."""
    _, preparer, patients = prepared
    patient = max(patients, key=lambda one: len(one.observations))
    less = patient.model_copy(update={"observations": patient.observations[::3]})
    batch = preparer.prepare([patient, less])
    assert not np.array_equal(batch.inputs["series"][0], batch.inputs["series"][1], equal_nan=True)


def test_each_patient_with_one_reading_stands_on_the_grid(prepared):
    _, preparer, patients = prepared
    names = {channel.name for channel in preparer.reader.channels}
    single = [
        patient.model_copy(
            update={"observations": [reading], "note": None, "image": None, "birth_date": None, "sex": None}
        )
        for patient in patients
        for reading in patient.observations
        if reading.channel in names
    ][::40]
    batch = preparer.prepare(single)
    present = batch.present[:, 0]
    assert present.mean() > 0.9, "a few of the generated readings are implausible"
    np.testing.assert_array_equal(batch.inputs["series_observed"][present].sum(axis=(1, 2)), 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The steps from a source to a model that was trained for two epochs."""
    from components.embed_text.embed_text import embed_notes
    from components.embed_text.settings import EmbedTextSettings
    from components.train.settings import TrainSettings
    from components.train.train import train_candidate

    folder = tmp_path_factory.mktemp("trained")
    _steps(
        folder,
        patients=40,
        ingest={"demographics": ["age", "sex"], "demographics_at": "first_and_last"},
        preprocess={"step": "6h", "steps": 12},
    )
    embed_notes(folder / "features", folder / "embedding", EmbedTextSettings())
    small = {"network": {"units": 8, "image_filters": [4]}, "optimiser": {"epochs": 2}}
    train_candidate(folder / "features", folder / "embedding", folder / "model", TrainSettings.model_validate(small))
    return folder


@pytest.mark.slow
def test_raw_patients_get_the_probabilities_of_the_pipeline(trained):
    """Features through Keras, as the pipeline predicts, against raw readings, files and notes as they are served."""
    import keras

    from training.data import gather
    from training.text import encode_words, word_numbers

    features = Features.open(trained / "features")
    rows = np.flatnonzero(features.present.any(axis=1))
    model = keras.saving.load_model(trained / "model" / "model.keras", compile=False, safe_mode=True)
    contract = json.loads((trained / "model" / "contract.json").read_text())
    vocabulary = json.loads((trained / "model" / "vocabulary.json").read_text())
    inputs = gather(features, rows, tuple(contract["modalities"]))
    texts = [features.texts[row] for row in rows]
    inputs["tokens"] = encode_words(texts, word_numbers(vocabulary), contract["text_length"])
    expected = model.predict_on_batch(inputs)

    predictor = Predictor.load(trained / "model")
    requests = json.loads((trained / "requests.json").read_text())
    answers = predictor.diagnose(parse_patients([requests[row] for row in rows]))
    received = np.array([list(answer.probabilities.values()) for answer in answers])
    np.testing.assert_allclose(received, expected["probabilities"], atol=1e-5)
    assert np.ptp(received, axis=0).max() > 1e-3, "the model must tell patients apart"
    attention = np.array([[answer.attention[name] for name in MODALITIES] for answer in answers])
    np.testing.assert_allclose(attention, expected["modality_attention"], atol=1e-5)
    # What train itself wrote down of its test rows.
    evaluated = pd.read_parquet(trained / "model" / "predictions.parquet")
    places = np.searchsorted(rows, evaluated["sample"])
    columns = [f"probability:{name}" for name in predictor.classes]
    np.testing.assert_allclose(received[places], evaluated[columns], atol=1e-5)


@pytest.mark.slow
def test_one_patient_gets_the_answer_that_he_gets_among_many(trained):
    predictor = Predictor.load(trained / "model")
    features = Features.open(trained / "features")
    requests = json.loads((trained / "requests.json").read_text())
    patients = parse_patients([requests[row] for row in np.flatnonzero(features.present.any(axis=1))])
    many = predictor.diagnose(patients)
    for patient, expected in zip(patients[::5], many[::5], strict=True):
        (alone,) = predictor.diagnose([patient])
        assert alone.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
        assert alone.warnings == expected.warnings
