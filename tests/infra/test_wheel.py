"""What is installed is what is in the checkout: data files too, so that both have the same cache keys."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipelines.code_version import code_versions

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("components", "data_schemas", "evaluation", "pipelines", "serving", "training")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The unpacked wheel, built from a copy without what git ignores."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    site = folder / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def _run(site, code, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VITALFUSE_")}
    completed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=site,
        env={**clean, "PYTHONPATH": str(site), **environment},
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


def _counts(path):
    return path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")


@pytest.mark.parametrize("room", ROOMS)
def test_the_wheel_holds_every_file_of_a_room(installed, room):
    wanted = {path.relative_to(ROOT) for path in (ROOT / room).rglob("*") if _counts(path)}
    found = {path.relative_to(installed) for path in (installed / room).rglob("*") if _counts(path)}
    assert len(wanted) > 3
    assert wanted - found == set()
    assert {path for path in wanted if (installed / path).read_bytes() != (ROOT / path).read_bytes()} == set()


def test_installed_code_has_the_code_versions_of_the_checkout(installed):
    printed = _run(installed, "import runpy; runpy.run_module('pipelines.code_version', run_name='__main__')")
    theirs, ours = json.loads(printed), code_versions()
    assert {step: version.partition("+")[2] for step, version in theirs.items()} == {
        step: version.partition("+")[2] for step, version in ours.items()
    }


def test_installed_code_reads_its_own_ready_settings(installed):
    code = "from pipelines.settings import *; print(load_settings(find_config('demo')).name, CONFIGS)"
    printed = _run(installed, code)
    assert printed == f"demo {installed / 'pipelines' / 'configs'}"


def test_installed_code_takes_its_commit_from_the_environment(installed):
    subprocess.run(["git", "init", "--quiet", str(installed.parent)], check=True)
    code = "from pipelines.code_version import git_commit; print(git_commit())"
    assert _run(installed, code) == "unknown"
    assert _run(installed, code, VITALFUSE_GIT_COMMIT="abc") == "abc"
