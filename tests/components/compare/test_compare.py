from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from components.compare.compare import compare_models
from components.compare.names import model_name
from components.compare.settings import CompareSettings
from data_schemas.errors import InputError
from data_schemas.predictions import TEST, class_probabilities, read_predictions
from tests.components.compare.conftest import CANDIDATE, Steps, write_model, write_steps


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("six")
    steps = write_steps(root)
    result = compare_models(**steps.arguments(), output=root / "out", settings=CompareSettings(resamples=100))
    return steps, root / "out", result


def predictions(folder: Path, kind: str) -> pd.DataFrame:
    frame = read_predictions(folder / "predictions.parquet")
    return frame[frame["set"] == kind]


def independent_auc(frame: pd.DataFrame, classes: list[str]) -> dict[str, float]:
    chances = class_probabilities(frame, classes)
    return {name: sk.roc_auc_score(frame["label"] == name, chances[:, k]) for k, name in enumerate(classes)}


def test_table_2_equals_aucs_computed_from_the_predictions(compared):
    steps, out, _ = compared
    table = pd.read_csv(out / "tables" / "table_2_auc_by_class.csv")
    for folder in steps.cross_validations:
        model = folder.name.removeprefix("cross_validate_")
        for kind in ("test", "out_of_fold"):
            source = steps.candidate if (model, kind) == (CANDIDATE, TEST) else folder
            expected = independent_auc(predictions(source, kind), steps.classes)
            own = table[(table["set"] == kind) & (table["model"] == model)].set_index("class")
            for name, value in expected.items():
                assert own.loc[name, "value"] == pytest.approx(value)
                assert own.loc[name, "low"] <= value <= own.loc[name, "high"]


def test_table_2_has_the_papers_numbers_or_says_that_it_has_none(compared):
    _, out, _ = compared
    table = pd.read_csv(out / "tables" / "table_2_auc_by_class.csv").set_index(["set", "model", "class"])
    assert table.loc[("test", CANDIDATE, "diabetes"), "paper"] == 0.96
    assert table.loc[("test", "random_forest", "chronic_kidney_disease"), "paper"] == 0.88


def test_table_3_equals_precision_computed_by_fold(compared):
    steps, out, _ = compared
    table = pd.read_csv(out / "tables" / "table_3_macro_precision_by_fold.csv")
    folder = steps.cross_validations[1]
    frame = predictions(folder, "out_of_fold")
    frame = frame.assign(decided=np.array(steps.classes)[class_probabilities(frame, steps.classes).argmax(axis=1)])
    for fold, own in frame.groupby("fold"):
        expected = sk.precision_score(own["label"], own["decided"], average="macro", zero_division=0)
        row = table[(table["model"] == "cnn") & (table["fold"] == fold + 1)].iloc[0]
        assert row["value"] == pytest.approx(expected)
        assert row["rows"] == len(own)
    assert table[table["model"] == "cnn"]["paper"].tolist() == [0.93, 0.92, 0.94, 0.93, 0.92]


def test_confusion_counts_every_row_once_and_carries_the_papers(compared):
    steps, out, _ = compared
    table = pd.read_csv(out / "tables" / "fig_4_confusion.csv")
    own = table[(table["set"] == "test") & (table["model"] == CANDIDATE)]
    frame = predictions(steps.candidate, "test")
    decided = np.array(steps.classes)[class_probabilities(frame, steps.classes).argmax(axis=1)]
    expected = sk.confusion_matrix(frame["label"], decided, labels=steps.classes)
    assert np.array_equal(own["count"].to_numpy().reshape(6, 6), expected)
    assert own["paper_count_of_300"].sum() == 300


def test_metrics_json_flat_metrics_and_headline_agree(compared):
    _, out, result = compared
    document = json.loads((out / "metrics.json").read_text())
    headline = {row["model"]: row for row in json.loads((out / "headline.json").read_text())}
    for model, sets in document["models"].items():
        for metric in ("macro_auc", "accuracy", "macro_precision", "kappa", "mcc"):
            assert sets["test"][metric] == headline[model][metric]
            assert sets["test"][metric] == result.metrics[f"test/{model}/{metric}"]
            low, high = sets["test"]["intervals"][metric]
            assert low <= sets["test"][metric] <= high
        assert sets["out_of_fold"]["rows"] == 144
    assert result.metrics["test/macro_auc"] == result.metrics[f"test/{CANDIDATE}/macro_auc"]
    assert document["best_model"] == next(iter(headline))
    assert document["candidate"] == CANDIDATE
    assert len(document["comparisons"]) == 6
    assert all(path.exists() for path in result.artifacts.values())
    assert all(np.isfinite(list(result.metrics.values())))


class LoadedAddresses(HTMLParser):
    """Collects every address that a browser would load, and counts what makes the page accessible."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tables = 0
        self.captions = 0
        self.unscoped = 0
        self.drawings: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.addresses += [str(named[key]) for key in ("src", "href", "xlink:href", "data", "srcset") if key in named]
        self.ids += [str(named["id"])] if "id" in named else []
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.unscoped += tag == "th" and "scope" not in named
        if named.get("class") == "drawing":
            self.drawings.append(named.get("aria-label"))


def test_the_report_loads_nothing_and_is_accessible(compared):
    _, out, _ = compared
    page = (out / "report.html").read_text()
    parser = LoadedAddresses()
    parser.feed(page)
    assert all(address.startswith("#") for address in parser.addresses), parser.addresses
    targets = {address[1:] for address in parser.addresses}
    assert targets <= set(parser.ids)
    assert len(parser.ids) == len(set(parser.ids))
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "<script" not in page
    assert parser.tables == parser.captions > 8
    assert parser.unscoped == 0
    assert len(parser.drawings) == 8
    assert all(parser.drawings)


def test_the_report_names_every_model_says_which_rows_and_that_data_are_synthetic(compared):
    steps, out, _ = compared
    page = (out / "report.html").read_text()
    for folder in steps.cross_validations:
        assert model_name(folder.name.removeprefix("cross_validate_")) in page
    for figure in ("Table II,", "Table III,", "Fig. 4,", "Fig. 5,", "Fig. 6,", "Fig. 7,"):
        assert figure in page
    assert "held-out test rows, n = 36" in page
    assert "out-of-fold training rows, n = 144" in page
    assert "These data are synthetic" in page
    assert "not for clinical use" in page
    assert "Source rows rejected at ingest, by reason; 7 in all" in page
    assert page.count("heart_rate: 3 values above the plausible range (OUT_OF_RANGE)") == 1
    assert "Warning: 2 notes were empty" in page


def test_no_patient_id_is_in_anything_written(compared):
    steps, out, _ = compared
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert not any(patient.encode() in written for patient in steps.samples["patient_id"])


def test_every_figure_is_a_png(compared):
    _, out, _ = compared
    figures = sorted((out / "figures").iterdir())
    assert len(figures) == 8
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)


def test_the_same_inputs_give_the_same_bytes(compared, tmp_path):
    steps, out, _ = compared
    compare_models(**steps.arguments(), output=tmp_path / "again", settings=CompareSettings(resamples=100))
    for path in out.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "again" / path.relative_to(out)).read_bytes(), path.name


def first_line(out: Path) -> str:
    return re.search(r'<div class="verdict">\s*<p>(.*?)</p>', (out / "report.html").read_text(), re.DOTALL)[1]


def test_a_simple_model_that_wins_is_named_in_the_first_line(tmp_path, quick):
    steps = write_steps(tmp_path, signals={CANDIDATE: 0.3, "random_forest": 3.0, "lstm": 0.3})
    result = compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
    assert first_line(tmp_path / "out").startswith("A simpler model wins: Random forest")
    assert "The difference is significant" in first_line(tmp_path / "out")
    assert result.tags["best_model"] == "random_forest"


def test_a_simple_model_that_cannot_be_told_from_the_candidate_is_named(tmp_path, quick):
    steps = write_steps(tmp_path, signals={CANDIDATE: 2.1, "random_forest": 2.0})
    compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "A simpler model is at least as good" in page or "A simpler model may serve as well" in page


def test_two_classes_without_images_and_a_model_that_does_not_apply(tmp_path, quick):
    steps = write_steps(tmp_path, classes=("survived", "died"), patients=100, images=False, synthetic=False)
    compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "CNN is not applicable: the cohort has no images." in page
    assert "the paper has no figure for this class" in page
    assert "synthetic" not in page
    headline = json.loads((tmp_path / "out" / "headline.json").read_text())
    cnn = headline[-1]
    assert (cnn["model"], cnn["status"], cnn["macro_auc"]) == ("cnn", "not_applicable", None)
    assert cnn["reason"] == "the cohort has no images."
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert document["models"]["cnn"]["test"] is None
    table = pd.read_csv(tmp_path / "out" / "tables" / "table_2_auc_by_class.csv")
    assert table["paper"].isna().all()
    assert set(table["paper_note"]) == {"the paper has no figure for this class"}


def test_a_class_without_held_out_rows_is_left_out_and_said(tmp_path, quick):
    steps = write_steps(tmp_path, classes=("a", "b", "c", "d"), patients=80, missing_in_test="b")
    result = compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
    assert result.warnings == ["Held-out rows have no sample of: b; averages over classes leave it out."]
    assert "These rows have no sample of b" in (tmp_path / "out" / "report.html").read_text()
    frame = predictions(steps.candidate, TEST)
    chances = class_probabilities(frame, steps.classes)
    aucs = [sk.roc_auc_score(frame["label"] == name, chances[:, k]) for k, name in enumerate("abcd") if name != "b"]
    assert result.metrics["test/macro_auc"] == pytest.approx(np.mean(aucs))


def test_markup_in_names_is_escaped(tmp_path, quick):
    steps = write_steps(tmp_path, classes=("<b>one</b>", "two & three"), patients=60)
    compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>one" not in page
    assert "&lt;b&gt;one" in page


def broken(steps: Steps, change) -> None:
    frame = change(read_predictions(steps.candidate / "predictions.parquet"))
    frame.to_parquet(steps.candidate / "predictions.parquet", index=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(label=frame["label"].iloc[::-1].to_numpy()), "labels differ"),
        (lambda frame: frame.assign(sample=frame["sample"] + 1), "not test rows"),
        (lambda frame: frame.assign(sample=frame["sample"] + 10_000), "do not have"),
        (lambda frame: pd.concat([frame, frame]), "two test predictions"),
        (lambda frame: frame.drop(columns="probability:diabetes"), "no probabilities of the class 'diabetes'"),
        (lambda frame: frame.assign(**{"probability:diabetes": 2.0}), "sum to 1"),
        (lambda frame: frame.iloc[:0], "no predictions of test rows"),
    ],
)
def test_predictions_that_do_not_fit_the_features_are_refused(tmp_path, quick, change, message):
    steps = write_steps(tmp_path, patients=60)
    broken(steps, change)
    with pytest.raises(InputError, match=message) as caught:
        compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
    assert not (tmp_path / "out").exists()
    assert not any(patient in str(caught.value) for patient in steps.samples["patient_id"])


def test_a_training_row_among_the_test_predictions_is_refused(tmp_path, quick):
    steps = write_steps(tmp_path, patients=60)
    leaky = steps.samples.assign(split="test")
    write_model(tmp_path / "leaky", "gru", leaky, steps.classes, sets=(TEST,), signal=1.0, seed=3)
    arguments = steps.arguments() | {"cross_validations": [*steps.cross_validations, tmp_path / "leaky"]}
    with pytest.raises(InputError, match="not test rows"):
        compare_models(**arguments, output=tmp_path / "out", settings=quick)


def test_missing_predictions_and_doubled_models_are_refused(tmp_path, quick):
    steps = write_steps(tmp_path, patients=60)
    doubled = steps.arguments() | {"cross_validations": [steps.cross_validations[1]] * 2}
    with pytest.raises(InputError, match="cross-validated twice"):
        compare_models(**doubled, output=tmp_path / "out", settings=quick)
    (steps.candidate / "predictions.parquet").unlink()
    with pytest.raises(InputError, match=r"no predictions\.parquet"):
        compare_models(**steps.arguments(), output=tmp_path / "out", settings=quick)
