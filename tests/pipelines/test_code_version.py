import ast

import pytest

from pipelines import code_version as module


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
