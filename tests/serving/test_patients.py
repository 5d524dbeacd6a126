"""What a request has to look like, and what is said of one that does not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.patients import InvalidRequest, Patient, parse_patients, parse_patients_json

TIME = "2022-06-01T10:00:00+02:00"


def patient(**reading):
    return {"observations": [{"channel": "heart_rate", "time": TIME, "value": 72} | reading]}


def faults(content):
    with pytest.raises(InvalidRequest) as caught:
        parse_patients(content)
    assert caught.value.malformed
    return caught.value.faults


@pytest.mark.parametrize("date", ["1960", "1960-02", "1960-02-29"])
def test_a_year_or_month_of_birth_is_enough(date):
    assert parse_patients([{"birth_date": date}])[0].birth_date == date


def test_what_is_left_out_is_not_known():
    (parsed,) = parse_patients([{}])
    assert parsed == Patient()
    assert parsed.observations == []


@pytest.mark.parametrize(
    ("content", "field", "problem"),
    [
        ({}, "patients", "is not a list"),
        (["x"], "patients[0]", "is not an object"),
        ([{"observations": {}}], "patients[0].observations", "is not a list"),
        ([{"observations": [3]}], "patients[0].observations[0]", "is not an object"),
        ([patient(time="2022-06-01T10:00:00")], "patients[0].observations[0].time", "has no offset from UTC"),
        ([patient(time=1654070400)], "patients[0].observations[0].time", "is not a time stamp"),
        ([patient(time="1654070400")], "patients[0].observations[0].time", "is not a time stamp"),
        ([patient(time="2022-06-01")], "patients[0].observations[0].time", "is not a time stamp"),
        ([patient(time="2022-06-31T10:00:00Z")], "patients[0].observations[0].time", "is not of the documented form"),
        ([patient(time="1500-06-01T10:00:00Z")], "patients[0].observations[0].time", "is not between the years"),
        ([patient(time="9999-12-31T23:59:59-23:00")], "patients[0].observations[0].time", "is not between the years"),
        ([patient(value=None)], "patients[0].observations[0].value", "is not a number"),
        ([patient(value=True)], "patients[0].observations[0].value", "is not a number"),
        ([patient(value=[1])], "patients[0].observations[0].value", "is not a number"),
        ([patient(value=float("nan"))], "patients[0].observations[0].value", "is not a finite number"),
        ([patient(value=float("inf"))], "patients[0].observations[0].value", "is not a finite number"),
        ([patient(value=10**400)], "patients[0].observations[0].value", "is not a number"),
        ([patient(unit=1)], "patients[0].observations[0].unit", "is not a text"),
        ([patient(unit="x" * 201)], "patients[0].observations[0].unit", "has more than 200 characters"),
        ([patient(system="http://snomed.info/sct")], "patients[0].observations[0].system", "documented form"),
        ([patient(dose=3)], "patients[0].observations[0]", "has a field 'dose' that is not known"),
        ([{"note": 3}], "patients[0].note", "is not a text"),
        ([{"note": [{"time": TIME}]}], "patients[0].note[0].text", "is missing"),
        ([{"note": [{"text": "x", "time": "noon"}]}], "patients[0].note[0].time", "is not a time stamp"),
        ([{"note": [{"text": "x", "author": "y"}]}], "patients[0].note[0]", "has a field 'author' that is not known"),
        ([{"image": 3}], "patients[0].image", "is not a text"),
        ([{"start": "2022-06-01T10:00:00"}], "patients[0].start", "has no offset from UTC"),
        ([{"sex": "F"}], "patients[0].sex", "is not of the documented form"),
        ([{"age": -1}], "patients[0].age", "is below zero"),
        ([{"age": "60"}], "patients[0].age", "is not a number"),
        ([{"age": 60, "birth_date": "1960"}], "patients[0]", "needs either an age or a birth_date"),
        ([{"birth_date": "1960/06/01"}], "patients[0].birth_date", "is not of the documented form"),
        ([{"birth_date": "1960-06-31"}], "patients[0].birth_date", "is no date"),
        ([{"birth_date": "0000"}], "patients[0].birth_date", "is no date"),
        ([{}, {"mrn": "1"}], "patients[1]", "has a field 'mrn' that is not known"),
    ],
)
def test_what_is_malformed_is_told_with_its_field(content, field, problem):
    (fault,) = faults(content)
    assert fault.field == field
    assert problem in fault.problem
    assert fault.remedy
    # JSON has no NaN, and a number with too many digits is infinite there.
    if "number" not in problem:
        with pytest.raises(InvalidRequest) as caught:
            parse_patients_json(json.dumps(content))
        assert caught.value.faults == (fault,), "JSON is told the same"


def test_every_fault_is_told():
    found = faults([patient(value="x" * 500, time="now"), {"age": "old"}])
    assert [fault.field for fault in found] == [
        "patients[0].observations[0].time",
        "patients[0].observations[0].value",
        "patients[1].age",
    ]


@pytest.mark.parametrize(
    "content",
    [
        [patient(time="Jane Doe 12:00")],
        [patient(channel={"Jane Doe": 1})],
        [{"Jane Doe": 1}],
        [{"sex": "Jane Doe"}],
        [{"note": [{"text": "x", "time": "Jane Doe"}]}],
        [{"birth_date": "Jane Doe"}],
        "Jane Doe",
    ],
)
def test_no_message_repeats_what_was_sent(content):
    error = InvalidRequest(faults(content))
    assert "Jane" not in str(error) + repr(error) + str(error.args)


def test_json_is_read_like_python_values():
    content = [patient(), patient(channel=None, code="8867-4"), {"note": "Fever.", "image": [[0.5]]}]
    assert parse_patients_json(json.dumps(content)) == parse_patients(content)
    for broken in (b"[{", b'[{"note": "\xff"}]', b'[{"age": NaN}]', b'[{"age": 1e999}]', b""):
        with pytest.raises(InvalidRequest):
            parse_patients_json(broken)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Patient.model_fields, "time", "value", "channel", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(content=_JSON)
def test_whatever_is_sent_is_patients_or_faults(content):
    try:
        parse_patients(content)
    except InvalidRequest as error:
        assert all(fault.field and fault.problem and fault.remedy for fault in error.faults)
