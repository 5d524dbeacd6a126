"""The lock files of the images agree with those of the environments that everything is tested in."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "infra" / "locks"
REQUIREMENTS = ROOT / "infra" / "images" / "requirements"
# What the images run on.
MARKERS = {
    "python_version": "3.13",
    "python_full_version": "3.13.5",
    "sys_platform": "linux",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "platform_machine": "x86_64",
}
MAIN = {
    "data": "requirements",
    "validate": "requirements-tfdv",
    "train": "requirements",
    "train-cuda": "requirements",
    "serve": "requirements",
}


def _pins(path):
    pins = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(MARKERS):
                pins[requirement.name.lower()] = str(requirement.specifier)
    return pins


def _named(path):
    """Names in a requirements file and in those that it includes."""
    names = set()
    for line in path.read_text().splitlines():
        if line.startswith("-r "):
            names |= _named(path.with_name(line.removeprefix("-r ")))
        elif line and not line.startswith("#"):
            names.add(re.match(r"[A-Za-z0-9._-]+", line).group().lower())
    return names


@pytest.mark.parametrize("image", [*MAIN, "mlflow"])
def test_an_image_has_the_versions_of_the_main_lock(image):
    main, ours = _pins(LOCKS / f"{MAIN.get(image, 'requirements')}.txt"), _pins(LOCKS / f"image-{image}.txt")
    assert {name: pin for name, pin in ours.items() if main.get(name, pin) != pin} == {}


@pytest.mark.parametrize("image", MAIN)
def test_an_image_has_what_its_requirements_name_and_nothing_that_is_excluded(image):
    ours = set(_pins(LOCKS / f"image-{image}.txt"))
    assert _named(REQUIREMENTS / f"{image}.in") <= ours
    # KServe needs of the first list what a step does not: uvicorn and Kubernetes' client.
    excluded = "excluded-serve" if image == "serve" else "excluded"
    assert not _named(REQUIREMENTS / f"{excluded}.txt") & ours


def test_only_the_images_that_need_it_have_tensorflow():
    pins = {image: set(_pins(LOCKS / f"image-{image}.txt")) for image in MAIN}
    found = {image: sorted(name for name in pins[image] if name in ("tensorflow", "tensorflow-cpu")) for image in MAIN}
    assert found == {
        "data": [],
        "validate": ["tensorflow-cpu"],
        "train": ["tensorflow-cpu"],
        "train-cuda": ["tensorflow"],
        "serve": [],
    }
    assert not {"keras", "kfp", "scikit-learn", "gensim", "mlflow"} & pins["serve"]
    assert "nvidia-cudnn-cu12" in pins["train-cuda"]
    assert "tensorflow-data-validation" not in pins["data"] | pins["train"]


def test_both_builds_of_tensorflow_have_one_version():
    assert _pins(LOCKS / "image-train.txt")["tensorflow-cpu"] == _pins(LOCKS / "image-train-cuda.txt")["tensorflow"]
    assert _pins(LOCKS / "image-validate.txt")["tensorflow-cpu"] == _pins(LOCKS / "requirements.txt")["tensorflow"]
