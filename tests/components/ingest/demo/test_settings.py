import pytest
from pydantic import ValidationError

from components.ingest.demo.settings import DemoSettings


def test_default_counts_are_the_papers():
    assert list(DemoSettings().counts.values()) == [100, 60, 50, 40, 30, 20]


def test_class_counts_replace_the_number_of_patients():
    counts = DemoSettings(patients=5, class_counts={"copd": 3, "healthy": 2}).counts
    assert {name: count for name, count in counts.items() if count} == {"healthy": 2, "copd": 3}
    assert next(iter(counts)) == "healthy"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"class_counts": {"flu": 3}}, "received 'flu'"),
        ({"class_counts": {"copd": 0}}, "at least one patient"),
        ({"missing_images": 1, "missing_notes": 1}, "missing_series must be 0"),
        ({"pateints": 3}, "Extra inputs"),
        ({"patients": 0}, "greater than or equal to 1"),
        ({"time_zone": "Mars/Olympus"}, "IANA"),
    ],
)
def test_wrong_settings_are_refused(wrong, told):
    with pytest.raises(ValidationError, match=told):
        DemoSettings.model_validate(wrong)
