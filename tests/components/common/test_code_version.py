import ast
import inspect
from importlib import import_module
from types import SimpleNamespace

import pytest

from components.common import code_version as module
from components.common import environment
from data_schemas.errors import InputError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for folder in {folder for folders in module.SOURCES.values() for folder in folders}:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.py").write_text("x = 1")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    module._digest.cache_clear()
    yield tmp_path
    module._digest.cache_clear()


def _versions():
    module._digest.cache_clear()
    return {step: module.code_version(step) for step in module.SOURCES}


def test_a_changed_source_changes_the_version_of_the_steps_that_use_it_alone(tree):
    before = _versions()
    (tree / "training" / "a.py").write_text("x = 2")
    changed = {step for step, version in _versions().items() if version != before[step]}
    assert changed == {"embed_text", "train", "cross_validate", "register"}


def test_a_renamed_source_changes_the_version(tree):
    before = _versions()
    (tree / "components" / "ingest" / "a.py").rename(tree / "components" / "ingest" / "b.py")
    assert _versions()["ingest"] != before["ingest"]


def test_compiled_and_text_files_do_not_count(tree):
    before = _versions()
    (tree / "training" / "README.md").write_text("words")
    (tree / "training" / "__pycache__").mkdir()
    (tree / "training" / "__pycache__" / "a.py").write_text("")
    assert _versions() == before


def test_every_source_folder_exists():
    for folders in module.SOURCES.values():
        for folder in folders:
            assert (module.ROOT / folder).is_dir(), folder


def test_unknown_step_is_refused():
    with pytest.raises(ValueError, match="'nothing'"):
        module.code_version("nothing")


def _local_imports(path):
    """Modules of this project that a file imports, at any depth inside it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = set()
    for name in found:
        place = module.ROOT / name.replace(".", "/")
        files |= {file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    return files


@pytest.mark.parametrize("step", module.SOURCES)
def test_every_imported_module_counts_for_the_step(step):
    waiting = {module.ROOT / "components" / step / "component.py"}
    seen = set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        waiting |= _local_imports(path) - seen
    covered = [module.ROOT / folder for folder in module.SOURCES[step]]
    named_only = {module.ROOT / "components" / "image.py", module.ROOT / "components" / "__init__.py"}
    missing = {
        str(path.relative_to(module.ROOT))
        for path in seen - named_only
        if not any(path.is_relative_to(folder) for folder in covered)
    }
    assert not missing


@pytest.mark.parametrize("step", ["train", "cross_validate[gru]", "ingest_shard[1-of-2]", "merge_features"])
def test_the_code_that_the_run_was_started_with_passes(step):
    whole = {"ingest_shard[1-of-2]": "ingest", "merge_features": "preprocess"}.get(step, step.partition("[")[0])
    wanted = module.code_version(whole)
    module.check_code_version(step, wanted)
    # From a checkout that is not installed.
    module.check_code_version(step, f"0+{wanted.partition('+')[2]}")


def test_an_image_of_other_code_is_refused_with_both_versions_and_the_remedy(monkeypatch):
    monkeypatch.delenv(environment.RUNNER_PROCESS, raising=False)
    with pytest.raises(InputError) as caught:
        module.check_code_version("train", "0.0.1+000000000000")
    line = str(caught.value)
    assert "\n" not in line
    for words in ("0.0.1+000000000000", module.code_version("train"), "push the images", "cluster.images.tag"):
        assert words in line
    # The package's version alone is no proof.
    with pytest.raises(InputError):
        module.check_code_version("train", module.code_version("compare"))


def test_code_that_was_changed_during_a_local_run_is_told_as_such(monkeypatch):
    monkeypatch.setenv(environment.RUNNER_PROCESS, "1")
    with pytest.raises(InputError, match="was changed while the run was on") as caught:
        module.check_code_version("train", "0.0.1+000000000000")
    assert "image" not in str(caught.value)


def _cached_components():
    found = {}
    for step in module.SOURCES:
        members = vars(import_module(f"components.{step}.component"))
        found |= {name: value.python_func for name, value in members.items() if hasattr(value, "python_func")}
    return found


@pytest.mark.parametrize("name", _cached_components())
def test_every_cached_step_ends_at_once_where_its_code_is_other(name, tmp_path, monkeypatch, capsys):
    for variable in (environment.RUN_FOLDER, environment.RUNNER_PROCESS, "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    function = _cached_components()[name]
    lists = {"parts", "cross_validations", "cross_validate_records"}
    arguments = {
        argument: [] if argument in lists else SimpleNamespace(path=str(tmp_path / argument))
        for argument in inspect.signature(function).parameters
    }
    plain = {"settings": {}, "code_version": "0.0.1+000000000000", "shard": "1-of-2"}
    with pytest.raises(SystemExit) as caught:
        function(**arguments | {key: value for key, value in plain.items() if key in arguments})
    assert caught.value.code == 2
    assert "0.0.1+000000000000" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
