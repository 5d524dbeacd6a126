import importlib.util
import sys
from pathlib import Path

import pytest

from components.validate import interpreter
from data_schemas.errors import InputError


@pytest.fixture
def without_tfdv(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(interpreter, "__file__", str(tmp_path / "a" / "b" / "interpreter.py"))
    monkeypatch.chdir(tmp_path)


def test_this_interpreter_is_used_where_tfdv_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert interpreter.find_interpreter({"VALIDATE_PYTHON": "/elsewhere"}) == Path(sys.executable)


def test_the_named_interpreter_comes_before_the_project_s(without_tfdv, tmp_path):
    own = tmp_path / ".venv-validate" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert interpreter.find_interpreter({}) == own
    assert interpreter.find_interpreter({"VALIDATE_PYTHON": sys.executable}) == Path(sys.executable)


def test_no_environment_is_told_with_the_remedy(without_tfdv):
    with pytest.raises(InputError, match=r"no environment to run in.*make setup"):
        interpreter.find_interpreter({})
    with pytest.raises(InputError, match="VALIDATE_PYTHON: names an interpreter that is not there"):
        interpreter.find_interpreter({"VALIDATE_PYTHON": "/no/such/python"})
