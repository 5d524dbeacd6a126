"""The page's files and routes, without a browser; ``test_page_in_chromium.py`` uses it as a person does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from data_schemas.features import MODALITIES
from serving.examples import EXAMPLES, write_examples
from serving.page_routes import PAGE, page_router
from serving.patients import parse_patients
from tests.serving.page_app import page_app
from tests.serving.server.conftest import wait_until


@pytest.fixture(scope="module")
def client(model_folder) -> Iterator[TestClient]:
    with TestClient(page_app(model_folder(*MODALITIES))) as opened:
        wait_until(lambda: opened.get("/page/model").status_code == 200)
        yield opened


def test_the_examples_are_what_the_generator_makes(tmp_path):
    write_examples(tmp_path / "examples")
    made = {path.name: path.read_bytes() for path in (tmp_path / "examples").iterdir()}
    assert made == {path.name: path.read_bytes() for path in EXAMPLES.iterdir()}


def test_every_example_is_a_patient_that_says_it_is_synthetic():
    index = json.loads((EXAMPLES / "index.json").read_text())
    assert index["synthetic"] and "no patient exists" in index["notice"]
    assert {entry["file"] for entry in index["patients"]} | {"index.json"} == {path.name for path in EXAMPLES.iterdir()}
    for entry in index["patients"]:
        example = json.loads((EXAMPLES / entry["file"]).read_text())
        assert example["synthetic"] and "no patient exists" in example["about"]
        (patient,) = parse_patients([example["patient"]])
        assert len(patient.observations) > 100


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(client):
    html = client.get("/").text
    assert re.findall(r'(?:src|href)="([^"]*)"', html) == ["data:,", "page.css", "page.js", "#answer"]
    assert "<style" not in html and "style=" not in html and not re.search(r"\son\w+=", html)
    for path in PAGE.glob("*.js"):
        text = path.read_text()
        assert "innerHTML" not in text and "eval(" not in text and "Storage" not in text
        assert re.findall(r"https?://\S+", text) in ([], ['http://www.w3.org/2000/svg";'])


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/examples/index.json"])
def test_every_file_comes_with_a_strict_policy(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/../predictor.py", "/%2e%2e/predictor.py", "/examples/", "/page/../page.css/x"])
def test_nothing_but_the_files_of_the_page_can_be_read(client, path):
    assert client.get(path).status_code == 404


def test_the_model_is_told_with_the_window_that_it_reads(client):
    told = client.get("/page/model").json()
    assert (told["name"], told["version"]) == ("vitalfuse-diagnosis", None)
    # Two steps of an hour, from the first reading on: see conftest.py.
    assert told["window"] == {"seconds": 7200.0, "anchor": "first"}


def test_a_page_without_a_model_or_a_token_says_so(model_folder):
    app = FastAPI()
    app.include_router(page_router(lambda: None))
    answer = TestClient(app).get("/page/model")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    guarded = TestClient(page_app(model_folder(*MODALITIES), token="secret"))
    assert guarded.get("/page/model").status_code == 401
    assert guarded.get("/").status_code == 200
