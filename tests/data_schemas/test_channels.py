from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_schemas.channels import Catalogue, load_catalogue

CATALOGUE = load_catalogue()


def _convert(channel, unit, value):
    return CATALOGUE.convert(pd.Series([channel]), pd.Series([unit]), np.array([value]))


# Expected values from molar masses (glucose 180.156, creatinine 113.12, urea nitrogen 28.014, calcium 40.078,
# magnesium 24.305, bilirubin 584.66, lactate 90.08 g/mol) and from the definitions of the other units.
@pytest.mark.parametrize(
    ("channel", "unit", "value", "expected"),
    [
        ("body_temperature", "°F", 98.6, 37.0),
        ("body_temperature", "[degF]", 212 - 104, 42.2222),
        ("blood_glucose", "mmol/L", 10, 180.156),
        ("creatinine", "umol/L", 100, 1.1312),
        ("urea_nitrogen", "mmol/L", 10, 28.014),
        ("calcium", "mmol/L", 2.5, 10.0195),
        ("magnesium", "mmol/L", 1, 2.4305),
        ("bilirubin", "µmol/L", 20, 1.16932),
        ("lactate", "mg/dL", 18, 1.9982),
        ("systolic_pressure", "kPa", 16, 120.0099),
        ("body_weight", "lb", 100, 45.3592),
        ("body_height", "inches", 70, 177.8),
        ("sodium", "mEq/L", 140, 140),
        ("hemoglobin", "g/L", 120, 12),
        ("inspired_oxygen_fraction", "1", 0.4, 40),
        ("hba1c", "mmol/mol", 48, 6.54),
        ("heart_rate", "beats/minute", 60, 60),
        ("respiratory_rate", "insp/min", 12, 12),
        ("platelets", "K/uL", 200, 200),
        ("heart_rate", "", 60, 60),
    ],
)
def test_conversions(channel, unit, value, expected):
    converted = _convert(channel, unit, value)
    assert converted.values[0] == pytest.approx(expected, rel=1e-3)
    assert converted.plausible[0]
    assert not converted.corrected[0]


@pytest.mark.parametrize(
    ("unit", "value", "expected", "corrected"),
    [("°C", 98.6, 37.0, True), ("°F", 37.0, 37.0, True), ("°C", 37.0, 37.0, False), ("°F", 98.6, 37.0, False)],
)
def test_temperature_typed_in_the_other_unit(unit, value, expected, corrected):
    converted = _convert("body_temperature", unit, value)
    assert converted.values[0] == pytest.approx(expected)
    assert bool(converted.corrected[0]) is corrected


@pytest.mark.parametrize(
    ("channel", "unit", "value"),
    [
        ("body_temperature", "°C", -17.8),
        ("body_temperature", "°F", 0),
        ("systolic_pressure", "mmHg", 0),
        ("diastolic_pressure", "mmHg", 879),
        ("heart_rate", "bpm", 0),
        ("invasive_mean_pressure", "mmHg", -23),
        ("arterial_ph", "", 735),
        ("heart_rate", "bpm", np.inf),
        ("heart_rate", "bpm", np.nan),
    ],
)
def test_dirt_of_real_sources_is_implausible(channel, unit, value):
    converted = _convert(channel, unit, value)
    assert converted.unit_known[0]
    assert not converted.plausible[0]


def test_unknown_unit():
    converted = _convert("heart_rate", "mg/dL", 60)
    assert not converted.unit_known[0]
    assert not converted.plausible[0]
    assert np.isnan(converted.values[0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(CATALOGUE.channels)), st.floats(-1e5, 1e5)), max_size=20))
def test_many_rows_convert_like_single_ones(rows):
    channels = pd.Series([name for name, _ in rows], dtype=object)
    values = np.array([value for _, value in rows], dtype=float)
    units = pd.Series(["°F" if name == "body_temperature" else "" for name, _ in rows], dtype=object)
    together = CATALOGUE.convert(channels, units, values)
    for i, (name, value) in enumerate(rows):
        alone = _convert(name, units[i], value)
        assert alone.values[0] == together.values[i]
        assert alone.plausible[0] == together.plausible[i]


def test_each_code_stands_for_one_channel():
    channels = CATALOGUE.channels.values()
    for codes in (
        [code for channel in channels for code in channel.loinc],
        [code for channel in channels for code in channel.meds],
        [channel.physionet2012 for channel in channels if channel.physionet2012],
        [name for channel in channels for name in channel.names],
    ):
        assert [code for code, count in Counter(codes).items() if count > 1] == []
    assert not set(CATALOGUE.by_loinc) & set(CATALOGUE.panel_by_loinc)


def test_each_unit_of_the_catalogue_converts():
    for name, channel in CATALOGUE.channels.items():
        for unit in (channel.unit, *channel.units, *channel.meds.values(), *channel.confused_units):
            assert channel.conversion(CATALOGUE.unit_name(unit)) is not None, (name, unit)
        assert channel.conversion(channel.physionet2012_unit or channel.unit) is not None
    for panel in CATALOGUE.panels.values():
        assert set(panel.channels) <= set(CATALOGUE.channels)


def test_contract_and_names():
    contract = CATALOGUE.contract("heart_rate")
    assert (contract.name, contract.unit, contract.low, contract.high) == ("heart_rate", "/min", 10, 300)
    assert CATALOGUE.by_name["blood oxygen saturation"] == ("oxygen_saturation",)
    assert CATALOGUE.by_name["blood pressure"] == ("systolic_pressure", "diastolic_pressure")
    with pytest.raises(KeyError):
        CATALOGUE.contract("mood")


def test_range_must_not_be_empty():
    with pytest.raises(ValueError, match="low must be below high"):
        Catalogue({"unit_aliases": {}, "panels": {}, "channels": {"x": {"unit": "1", "low": 2, "high": 1}}})
