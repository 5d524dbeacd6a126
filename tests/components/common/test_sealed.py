"""Sealed predictions: nobody without the key learns anything, and two runs' patients fit together."""

import base64

import numpy as np
import pandas as pd
import pytest

from components.common.evidence_key import derive_key, evidence_key, key_digest
from components.common.sealed import (
    blind,
    matched_rows,
    patients_digest,
    seal,
    unseal,
)
from data_schemas.errors import InputError
from data_schemas.predictions import TEST
from tests.registry_store import CLASSES, KEY, predictions

OTHER_KEY = derive_key("another secret of the tests")


def _test_rows(frame, key=KEY):
    blinded = blind(frame, key)
    return blinded[blinded["set"] == TEST].reset_index(drop=True)


def test_what_is_sealed_opens_with_its_key_alone():
    blinded = blind(predictions(2), KEY)
    token = seal(blinded, KEY)
    pd.testing.assert_frame_equal(unseal(token, KEY), blinded)
    with pytest.raises(InputError, match="another key"):
        unseal(token, OTHER_KEY)
    with pytest.raises(InputError, match="changed"):
        unseal(token[:-20] + b"A" * 20, KEY)


def test_neither_pseudonym_nor_label_nor_class_shows():
    frame = predictions(2)
    blinded = blind(frame, KEY)
    assert not set(frame["patient_id"]) & set(blinded["patient"])
    assert "patient_id" not in blinded and "sample" not in blinded
    # Among so many digits any four letters may stand; among so many bytes they do not.
    sealed = base64.urlsafe_b64decode(seal(blinded, KEY))
    for secret in (*CLASSES, "pseudonym", "probability"):
        assert secret.encode() not in sealed
    # Nor does the order of the rows tell the order of the source.
    assert not _test_rows(frame)["label"].equals(frame.loc[frame["set"] == TEST, "label"])


def test_digests_of_patients_depend_on_the_key_and_on_nothing_else():
    first, again = _test_rows(predictions(2)), _test_rows(predictions(0.5, seed=3))
    assert first["patient"].tolist() == again["patient"].tolist()
    assert not set(first["patient"]) & set(_test_rows(predictions(2), OTHER_KEY)["patient"])


def test_digest_of_all_patients_tells_whether_they_are_the_same():
    first = _test_rows(predictions(2))
    assert patients_digest(first, KEY) == patients_digest(_test_rows(predictions(0.1, seed=9)), KEY)
    assert patients_digest(first, KEY) == patients_digest(first.sample(frac=1, random_state=0), KEY)
    assert patients_digest(first, KEY) != patients_digest(first.iloc[1:], KEY)
    assert patients_digest(first, KEY) != patients_digest(first, OTHER_KEY)


def test_matched_rows_are_the_same_patients_in_the_same_order():
    frames = {"a": predictions(2), "b": predictions(1, patients=range(20, 90), seed=1).sample(frac=1, random_state=1)}
    rows, counts = matched_rows({name: _test_rows(frame) for name, frame in frames.items()}, CLASSES)
    assert counts == {"common": 40, "relabelled": 0}
    assert np.array_equal(rows["a"].labels, rows["b"].labels)
    # Found again by hand: the probability of each run for a patient, looked up by its pseudonym.
    for name, frame in frames.items():
        test = frame[(frame["set"] == TEST) & frame["patient_id"].isin([f"pseudonym-{i}" for i in range(20, 60)])]
        expected = np.sort(test["probability:copd"].to_numpy())
        assert np.array_equal(np.sort(rows[name].probabilities[:, 1]), expected)
    digests = _test_rows(frames["a"]).set_index("patient")["label"]
    common = sorted(set(digests.index) & set(_test_rows(frames["b"])["patient"]))
    assert [CLASSES[label] for label in rows["a"].labels] == digests[common].tolist()


def test_patients_with_another_label_are_left_out_and_counted():
    tables = {"a": _test_rows(predictions(2)), "b": _test_rows(predictions(2, labels={0: "copd", 3: "diabetes"}))}
    rows, counts = matched_rows(tables, CLASSES)
    assert counts == {"common": 58, "relabelled": 2}
    assert len(rows["a"]) == len(rows["b"]) == 58


def test_columns_in_another_order_are_the_same_classes():
    first = _test_rows(predictions(2))
    turned = first[list(first.columns[::-1])]
    rows, _ = matched_rows({"a": first, "b": turned}, CLASSES)
    assert np.array_equal(rows["a"].probabilities, rows["b"].probabilities)


def test_several_samples_of_a_patient_are_told_apart():
    frame = predictions(2, patients=range(6))
    twice = pd.concat([frame, frame.assign(sample=frame["sample"] + 100)], ignore_index=True)
    blinded = _test_rows(twice)
    assert blinded.groupby("patient")["sample_of_patient"].apply(sorted).map(tuple).unique().tolist() == [(0, 1)]
    rows, counts = matched_rows({"a": blinded, "b": blinded}, CLASSES)
    assert counts["common"] == 12 and rows["a"].group_count == 6


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"VITALFUSE_PSEUDONYM_KEY": "p" * 32}, derive_key("p" * 32)),
        ({"VITALFUSE_EVIDENCE_KEY": "e" * 32, "VITALFUSE_PSEUDONYM_KEY": "p" * 32}, derive_key("e" * 32)),
    ],
)
def test_key_comes_from_the_environment(environment, expected, monkeypatch):
    for name in ("VITALFUSE_EVIDENCE_KEY", "VITALFUSE_PSEUDONYM_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert evidence_key() == expected


def test_short_key_is_refused(monkeypatch):
    monkeypatch.setenv("VITALFUSE_EVIDENCE_KEY", "short")
    with pytest.raises(InputError, match="VITALFUSE_EVIDENCE_KEY") as caught:
        evidence_key()
    assert "short" not in str(caught.value).replace("too short", "")


def test_the_digest_of_a_key_changes_with_it_and_does_not_show_it():
    keys = [derive_key("e" * 32), derive_key("f" * 32)]
    digests = [key_digest(key) for key in keys]
    assert digests[0] != digests[1] and key_digest(None) == ""
    assert all(len(digest) == 12 and digest not in key.hex() for digest, key in zip(digests, keys, strict=True))
