import pytest

from components.compare.page import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(86_400, "1 day"), (15_552_000, "180 days"), (21_600, "6 h"), (43_200, "12 h"), (1_800, "30 min"), (7, "7 s")],
)
def test_a_duration_is_told_in_the_largest_fitting_unit(seconds, text):
    assert duration(seconds) == text
