import numpy as np
import pandas as pd
import pytest

from components.ingest.demo.annotators import ADJUDICATOR, annotate
from components.ingest.demo.patients import draw_patients
from components.ingest.demo.settings import DemoSettings


@pytest.fixture(scope="module")
def labelled():
    patients = draw_patients(DemoSettings(patients=2000))
    table = annotate(np.random.default_rng(1), patients, 0.15, days=14)
    return patients, table.pivot(index="mrn", columns="annotator", values="label").reindex(patients.mrn), table


def test_the_adjudicator_decides_exactly_where_annotators_differ(labelled):
    _, wide, _ = labelled
    differ = wide["annotator_a"] != wide["annotator_b"]
    assert differ.sum() == 300
    assert (wide[ADJUDICATOR].notna() == differ).all()


def test_the_settled_label_is_the_class(labelled):
    patients, wide, _ = labelled
    settled = wide[ADJUDICATOR].fillna(wide["annotator_a"])
    assert settled.str[1:].astype(int).to_numpy().tolist() == (patients.label + 1).tolist()


def test_both_annotators_err_and_more_on_the_mild(labelled):
    patients, wide, _ = labelled
    label = "Z" + pd.Series(patients.label + 1, index=wide.index).astype(str)
    assert 0.3 < (wide["annotator_a"] != label).sum() / 300 < 0.7
    differ = (wide["annotator_a"] != wide["annotator_b"]).to_numpy()
    ill = patients.label > 0
    dominant = patients.severity.max(axis=1)
    assert dominant[ill & differ].mean() < dominant[ill & ~differ].mean() - 0.05


def test_labels_come_after_the_stay_and_the_adjudicator_last(labelled):
    patients, _, table = labelled
    start = pd.Series(pd.DatetimeIndex(patients.start), index=patients.mrn)
    assert (table["time"] > table["mrn"].map(start) + pd.Timedelta(14, "D")).all()
    last = table.sort_values("time", kind="stable").drop_duplicates("mrn", keep="last").set_index("mrn")["annotator"]
    settled = table.loc[table["annotator"] == ADJUDICATOR, "mrn"]
    assert (last[settled] == ADJUDICATOR).all()
