"""What the served model does with raw patients, against a model whose answers are found by hand."""

import base64
import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from data_schemas.calibration import Calibration
from data_schemas.errors import InputError
from serving.patients import InvalidRequest, parse_patients
from serving.predictor import Predictor

ALL = ("series", "image", "text")
IMAGE = [[0.1, 0.2], [0.3, 0.4]]
CLASSES = ["healthy", "copd", "diabetes"]


@pytest.fixture(scope="module")
def predictor(model_folder):
    return Predictor.load(model_folder(*ALL))


def reading(channel="heart_rate", time="10:00", value=80.0, **more):
    return {"channel": channel, "time": f"2022-06-01T{time}:00+02:00", "value": value, **more}


def patient(**changes):
    readings = [reading(), reading(time="11:00", value=90), reading("body_temperature", value=37)]
    return {"observations": readings, "image": IMAGE, "note": "Fever. Cough."} | changes


def diagnose(predictor, *patients):
    return predictor.diagnose(parse_patients(list(patients)))


def scores(answer):
    """Undo the softmax, up to a constant that the tests choose by what is absent."""
    return [answer.probabilities[name] for name in CLASSES]


def expected(series, image=0.0, text=0.0):
    return softmax([series, image, text])


def test_every_modality_reaches_its_input(predictor):
    (answer,) = diagnose(predictor, patient())
    # Readings sum to 80 + 90 + 37, pixels to 1, "fever" and "cough" are words 3 and 2.
    np.testing.assert_allclose(scores(answer), expected(2.07, 1.0, 5.0), rtol=1e-6)
    assert answer.diagnosis == "diabetes"
    assert answer.attention == pytest.approx({"series": 1 / 3, "image": 1 / 3, "text": 1 / 3})
    assert answer.modalities == ["series", "image", "text"]
    assert answer.warnings == []
    assert answer.model.model_dump() == {"name": "hand_made", "version": None, "cohort_digest": "0" * 64}


def only(*readings):
    return {"observations": list(readings)}


@pytest.mark.parametrize(
    ("readings", "total"),
    [
        ([reading(code="8867-4", channel=None)], 80),
        ([reading(code="8867-4", channel=None, system="http://loinc.org")], 80),
        ([reading(channel="Heart Rate")], 80),
        ([reading(value=80)], 80),
        ([reading("body_temperature", value=98.6, unit="[degF]")], 37),
        ([reading("body_temperature", value=98.6, unit="°F")], 37),
        ([reading(), reading(value=90)], 85),  # The mean of a cell.
        ([reading(), reading(), reading(value=90)], 85),  # Sent twice, counted once.
        ([reading(), reading(time="13:00", value=90)], 80),  # Outside the window of two hours.
        ([reading(), {"channel": "heart_rate", "time": "2022-06-01T09:30:00+01:00", "value": 90}], 85),
        ([reading(), {"channel": "heart_rate", "time": "2022-06-01 08:30:00Z", "value": 90}], 85),
        # The thermometer's certificate: 38 shown is 37, and 12:30 is 11:30, inside the window.
        ([reading(), reading("body_temperature", "12:30", 38, device_id="thermometer")], 80 + 37),
        ([reading(), reading("body_temperature", "12:30", 38, device_id="another")], 80),
    ],
)
def test_readings_are_brought_to_the_grid_as_in_training(predictor, readings, total):
    (answer,) = diagnose(predictor, only(*readings))
    np.testing.assert_allclose(scores(answer), expected(total / 100), rtol=1e-5)
    assert answer.modalities == ["series"]
    assert answer.attention == {"series": 1.0, "image": 0.0, "text": 0.0}


@pytest.mark.parametrize(
    ("readings", "total", "warning"),
    [
        (
            [reading(), reading(time="10:30", value=500)],
            80,
            "observations: 1 reading of heart_rate left out, as outside the plausible range 10 to 300 /min",
        ),
        (
            [reading(), reading("body_temperature", value=98.6)],
            80 + 37,
            "observations: 1 reading of body_temperature taken in another unit than sent, as plausible in that one "
            "only",
        ),
        (
            [reading(), reading("creatinine", value=1), reading(code="2160-0", channel=None, value=1)],
            80,
            "observations: 2 readings of creatinine left out, as the model does not read this channel",
        ),
        ([reading(), reading()], 80, "observations: 1 reading of heart_rate left out, as sent twice"),
        (
            [reading("body_temperature", value=37), reading("body_temperature", value=1.7e308, unit="[degF]")],
            37,
            "observations: 1 reading of body_temperature left out, as outside the plausible range 25 to 45 Cel",
        ),
        (
            [reading(), reading(time="12:00", value=90), reading(time="13:00", value=90)],
            80,
            "observations: 2 readings outside the window of 2 steps of 1h",
        ),
        (
            [reading(), reading("blood_pressure", value="120/80")],
            80,
            "observations: 2 readings of diastolic_pressure, systolic_pressure left out, as the model does not read "
            "these channels",
        ),
    ],
)
def test_what_is_left_out_or_corrected_is_told(predictor, readings, total, warning):
    (answer,) = diagnose(predictor, only(*readings))
    np.testing.assert_allclose(scores(answer), expected(total / 100), rtol=1e-5)
    assert answer.warnings == [warning]


def test_only_what_was_known_at_a_time_is_used(predictor):
    readings = [reading(), reading(time="10:59", value=90), reading(time="11:30", value=100)]
    image = {"image": IMAGE, "image_time": "2022-06-01T11:00:01+02:00"}
    note = [{"text": "cough", "time": "2022-06-01T12:00:00Z"}, {"text": "fever", "time": "2022-06-01T08:00:00Z"}]
    given = {"observations": readings, "note": note, **image, "as_of": "2022-06-01T09:00:00Z"}
    (answer,) = diagnose(predictor, given)
    np.testing.assert_allclose(scores(answer), expected(0.85, 0, 3), rtol=1e-5)
    assert answer.warnings == [
        "note: left out, as dated after as_of",
        "image: left out, as dated after as_of",
        "observations: 1 reading left out, as dated after as_of",
    ]


def test_notes_are_joined_in_the_order_of_their_time(predictor):
    """Four words are kept: the undated note's first, then the earliest."""
    notes = [
        {"text": "fever fever", "time": "2022-06-01T10:00:00+02:00"},
        {"text": "cough", "time": "2022-06-01T10:00:00+03:00"},
        {"text": "nonsense"},
        {"text": "  "},
    ]
    (answer,) = diagnose(predictor, {"note": notes})
    np.testing.assert_allclose(scores(answer), expected(0, 0, 1 + 2 + 3 + 3), rtol=1e-6)


@pytest.mark.parametrize(
    ("note", "score"), [("gibberish", 1.0), ("No cough", 1.0 + 4.0), ("fever fever fever fever fever", 12.0)]
)
def test_notes_go_through_the_tokeniser_of_training(predictor, note, score):
    """An unknown word is 1, "no" is unknown too and turns cough into not_cough (4), and four words are kept."""
    (answer,) = diagnose(predictor, {"note": note})
    np.testing.assert_allclose(scores(answer), expected(0, 0, score), rtol=1e-6)


@pytest.mark.parametrize(
    ("absent", "series", "image", "text"),
    [("observations", 0, 1, 5), ("image", 2.07, 0, 5), ("note", 2.07, 1, 0)],
)
@pytest.mark.parametrize("how", ["None", "left out", "empty"])
def test_an_absent_modality_is_masked(predictor, absent, series, image, text, how):
    given = patient()
    if how == "left out" or (how == "None" and absent == "observations"):
        del given[absent]
    else:
        given[absent] = None if how == "None" or absent == "image" else {"observations": [], "note": " \n"}[absent]
    (answer,) = diagnose(predictor, given)
    np.testing.assert_allclose(scores(answer), expected(series, image, text), rtol=1e-6)
    assert sum(answer.attention.values()) == pytest.approx(1)
    assert {name for name, weight in answer.attention.items() if weight} == set(answer.modalities)
    assert len(answer.modalities) == 2


def png(pixels, mode=None, form="PNG"):
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels), mode=mode).save(stream, form)
    return base64.b64encode(stream.getvalue()).decode()


GREY = np.array([[0, 51], [102, 204]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "total"),
    [
        (png(GREY), 1.4),
        (png(GREY, form="TIFF"), 1.4),
        (png(GREY.astype(np.uint16) * 257), 1.4),
        (png(np.kron(GREY, np.ones((2, 2), dtype=np.uint8))), 1.4),  # Twice the size, averaged.
        ((GREY / 255).tolist(), 1.4),
        ((GREY / 255)[..., None].tolist(), 1.4),
        ([[0, 1], [1, 0]], 2.0),
    ],
)
def test_images_are_brought_to_the_shape_of_training(predictor, image, total):
    (answer,) = diagnose(predictor, {"image": image})
    np.testing.assert_allclose(scores(answer), expected(0, total), rtol=0.02)
    assert answer.warnings == []


def test_a_colour_image_is_turned_to_grey_for_a_grey_model(predictor):
    colours = np.zeros((2, 2, 3), dtype=np.uint8)
    colours[..., 1] = 255
    (answer,) = diagnose(predictor, {"image": png(colours)})
    np.testing.assert_allclose(scores(answer), expected(0, 4 * 0.587), rtol=1e-5)
    assert answer.warnings == ["image: its colours were turned to grey, as the model was trained on grey images"]


def faults(predictor, *patients):
    with pytest.raises(InvalidRequest) as caught:
        diagnose(predictor, *patients)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "field", "problem", "remedy", "malformed"),
    [
        (only(reading("heartrate")), ".observations[0].channel", "is no known channel", "mean heart_rate?", False),
        (only(reading("zzz")), ".observations[0].channel", "is no known channel", "reads heart_rate, body_", False),
        (only(reading(channel=None, code="1-2")), ".observations[0].code", "no LOINC code of a known", "Leave", False),
        (only(reading(), reading(unit="kPa")), ".observations[1].unit", "does not fit heart_rate", "of /min", False),
        (only(reading(code="8867-4")), ".observations[0]", "either a channel or a code", "Send one", True),
        (only(reading(channel=None)), ".observations[0]", "either a channel or a code", "Send one", True),
        (only(reading(value="high")), ".observations[0].value", "is a text", "Send a number", True),
        (only(reading("blood_pressure")), ".observations[0].value", "not a blood pressure", "120/80", True),
        (only(reading("bp", value="120")), ".observations[0].value", "not a blood pressure", "120/80", True),
        ({"image": "no base64!"}, ".image", "is not base64", "PNG", True),
        ({"image": base64.b64encode(b"no image").decode()}, ".image", "is truncated, or no image", "PNG", False),
        ({"image": png(GREY)[:-40]}, ".image", "is truncated, or no image", "PNG", False),
        ({"image": png(GREY, form="GIF")}, ".image", "is truncated, or no image", "PNG", False),
        ({"image": [[0.1], [0.2, 0.3]]}, ".image", "rows of unequal length", "[height][width]", True),
        ({"image": [["0.1"]]}, ".image", "is not a table of numbers", "[height][width]", True),
        ({"image": [[True]]}, ".image", "is not a table of numbers", "[height][width]", True),
        ({"image": [[None]]}, ".image", "is not a table of numbers", "[height][width]", True),
        ({"image": []}, ".image", "is not a table of numbers", "[height][width]", True),
        ({"image": [[0, 128], [255, 7]]}, ".image", "has pixels outside [0, 1]", "[0, 1]", False),
        ({"image": [[float("nan")]]}, ".image", "has pixels outside [0, 1]", "finite", True),
        ({"image": [[[0.1, 0.2]]]}, ".image", "another number of channels", "[1 or 3]", False),
        ({}, "", "holds nothing that the model can read", "readings of heart_rate", False),
        (only(reading(value=1)), "", "holds nothing that the model can read", "or a note", False),
    ],
)
def test_what_cannot_be_used_is_told_with_field_and_remedy(predictor, changes, field, problem, remedy, malformed):
    error = faults(predictor, patient(), changes)
    (fault,) = error.faults
    assert fault.field == "patients[1]" + field
    assert problem in fault.problem
    assert remedy in fault.remedy
    assert error.malformed == fault.malformed == malformed


def test_every_fault_of_every_patient_is_told(predictor):
    error = faults(predictor, only(reading("zzz"), reading(unit="kg")), patient(), {"image": "%"})
    assert [fault.field for fault in error.faults] == [
        "patients[0].observations[0].channel",
        "patients[0].observations[1].unit",
        "patients[2].image",
    ]


def test_a_fault_of_one_caller_leaves_the_others_answers(predictor):
    given = parse_patients([patient(), only(reading("zzz")), patient(note=None)])
    first, second, third = predictor.diagnose_each(given)
    assert isinstance(second, InvalidRequest)
    assert second.faults[0].field == "observations[0].channel"
    assert [first] == predictor.diagnose(given[:1])
    assert [third] == predictor.diagnose(given[2:])


def test_model_of_one_modality_says_what_it_does_not_read(model_folder):
    predictor = Predictor.load(model_folder("series"))
    (answer,) = diagnose(predictor, patient(image="broken"))
    np.testing.assert_allclose(scores(answer), expected(2.07), rtol=1e-6)
    assert answer.attention == {"series": 1.0, "image": 0.0, "text": 0.0}
    assert answer.warnings == [
        "image: left out, as the model does not read any",
        "note: left out, as the model does not read any",
    ]


def test_no_patients_give_no_diagnoses(predictor):
    assert predictor.diagnose([]) == []


@pytest.fixture
def calibrated(model_folder, tmp_path):
    """The hand-made model with a temperature of 2, and sets of the classes from 0.3 on."""
    folder = shutil.copytree(model_folder(*ALL), tmp_path / "model")
    calibration = Calibration(
        classes=CLASSES, temperature=2, alpha=0.1, lowest_probability=0.3, largest_set=2, abstain_below=0.4, rows=9
    )
    calibration.write(folder)
    return Predictor.load(folder)


@pytest.mark.parametrize(
    ("given", "logits", "conformal", "diagnosis"),
    [
        # The softmax of the scores divided by 2.
        (patient(), [2.07, 1.0, 5.0], ["diabetes"], "diabetes"),
        (patient(note="gibberish gibberish"), [2.07, 1.0, 2.0], ["healthy", "diabetes"], "abstain"),
        (patient(note="No cough fever"), [2.07, 1.0, 1 + 4 + 1], ["diabetes"], "diabetes"),
        ({"image": [[0, 0], [0, 0]]}, [0, 0, 0], CLASSES, "abstain"),
        (patient(observations=[], note=None), [0, 1, 0], ["copd"], "copd"),
    ],
)
def test_probabilities_are_calibrated_and_sets_and_abstention_follow(calibrated, given, logits, conformal, diagnosis):
    (answer,) = diagnose(calibrated, given)
    expected_probabilities = softmax(np.array(logits) / 2)
    np.testing.assert_allclose(scores(answer), expected_probabilities, rtol=1e-5)
    assert answer.conformal_set == conformal
    assert answer.diagnosis == diagnosis


def test_a_model_without_a_calibration_says_so(predictor):
    (answer,) = diagnose(predictor, patient())
    assert answer.conformal_set is None


def test_a_calibration_of_other_classes_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder(*ALL), tmp_path / "model")
    Calibration(
        classes=CLASSES[::-1], temperature=1, alpha=0.1, lowest_probability=0, largest_set=1, abstain_below=0, rows=9
    ).write(folder)
    with pytest.raises(InputError, match="names other classes"):
        Predictor.load(folder)


def test_a_folder_that_does_not_say_how_data_are_prepared_is_refused(model_folder, tmp_path):
    folder = shutil.copytree(model_folder(*ALL), tmp_path / "model")
    contract = json.loads((folder / "contract.json").read_text())
    (folder / "contract.json").write_text(json.dumps(contract | {"preparation": None}))
    with pytest.raises(InputError, match="does not say how raw data are prepared"):
        Predictor.load(folder)
    with pytest.raises(InputError, match="is not a model folder"):
        Predictor.load(tmp_path)


def test_threads_get_their_own_answers(predictor):
    given = parse_patients([patient(note=note) for note in ("fever", "cough", "gibberish", None)] * 8)
    expected = predictor.diagnose(given)
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda one: predictor.diagnose([one])[0], given))
    for answer, other in zip(alone, expected, strict=True):
        assert answer.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        assert answer.modalities == other.modalities
