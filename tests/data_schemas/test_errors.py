import pickle

from data_schemas.errors import InputError


def test_message_names_file_row_field_and_remedy_in_one_line():
    error = InputError("is\nmalformed", file="a.csv", row=3, field="value", remedy="Write it as 120/80")
    assert str(error) == "a.csv, row 3, field value: is malformed. Write it as 120/80."


def test_message_without_place_is_the_problem_alone():
    assert str(InputError("there are no patients.")) == "there are no patients."


def test_parts_survive_a_process_boundary():
    error = pickle.loads(pickle.dumps(InputError("wrong", file="a", row=1, field="b", remedy="c")))
    assert (error.problem, error.file, error.row, error.field, error.remedy) == ("wrong", "a", 1, "b", "c")
