from training.names import CANDIDATE, MODEL_NAMES, SLOWEST_FIRST


def test_the_order_of_starting_names_every_model_once():
    assert sorted(SLOWEST_FIRST) == sorted(MODEL_NAMES)
    assert CANDIDATE in MODEL_NAMES
