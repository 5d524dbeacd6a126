import numpy as np
import pytest

from components.ingest.demo.patients import MODALITIES, draw_patients, draw_severity
from components.ingest.demo.settings import DemoSettings


@pytest.fixture(scope="module")
def many():
    return draw_patients(DemoSettings(patients=6000))


def test_classes_have_exactly_the_counts_and_are_mixed(many):
    assert np.bincount(many.label).tolist() == [2000, 1200, 1000, 800, 600, 400]
    assert 0.25 < (many.label[:600] == 0).mean() < 0.42


def test_the_label_is_the_most_severe_disease(many):
    ill = many.label > 0
    assert (many.severity[ill].argmax(axis=1) == many.label[ill] - 1).all()
    assert many.severity.min() >= 0
    assert many.severity.max() <= 1


def test_mild_disease_overlaps_with_health(many):
    healthy, ill = many.severity[many.label == 0].max(axis=1), many.severity[many.label > 0].max(axis=1)
    mildest = np.quantile(ill, 0.02)
    assert healthy.max() < 0.31
    assert mildest < 0.5
    shown = many.expression["series"].max(axis=1)
    # In a tenth of the healthy, the series show more than in some of the ill.
    assert np.quantile(shown[many.label == 0], 0.9) > np.quantile(shown[many.label > 0], 0.02)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_comorbidity_has_the_rate_that_is_set(rate):
    label = np.repeat(np.arange(1, 6), 1000)
    severity = np.sort(draw_severity(np.random.default_rng(1), label, rate), axis=1)
    # A companion is mostly above .3, which the background never is.
    anyway = np.sort(draw_severity(np.random.default_rng(2), label, 0.0), axis=1)
    excess = (severity[:, -2] > 0.3).mean() - (anyway[:, -2] > 0.3).mean()
    assert excess == pytest.approx(0.83 * rate, abs=0.08)


def test_modalities_are_missing_at_the_rates_that_are_set():
    settings = DemoSettings(patients=6000, missing_series=0.1, missing_images=0.3, missing_notes=0.2)
    patients = draw_patients(settings)
    missing = {name: 1 - patients.present[name].mean() for name in MODALITIES}
    assert missing == pytest.approx({"series": 0.1, "image": 0.3, "text": 0.2}, abs=0.025)
    assert np.logical_or.reduce([patients.present[name] for name in MODALITIES]).all()


def test_a_whole_modality_can_be_missing():
    patients = draw_patients(DemoSettings(patients=200, missing_images=1, missing_notes=1, missing_series=0))
    assert patients.present["series"].all()
    assert not patients.present["image"].any()


def test_names_and_numbers_are_obviously_invented(many):
    table = many.table()
    assert table["mrn"].is_unique
    assert table["mrn"].str.fullmatch(r"DEMO\d{7}").all()
    assert table["name"].str.contains("Testpatient").all()
    # The order of the record numbers tells nothing of the class.
    number = table["mrn"].str[4:].astype(int).to_numpy()
    assert abs(np.corrcoef(number, many.label)[0, 1]) < 0.05
