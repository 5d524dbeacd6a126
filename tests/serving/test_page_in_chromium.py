"""The page in a real, headless Chromium, with a real model behind it."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from data_schemas.calibration import Calibration
from data_schemas.features import MODALITIES
from serving.examples import EXAMPLES
from serving.patients import parse_patients
from serving.predictor import Predictor
from tests.serving.conftest import CLASSES
from tests.serving.page_app import page_app, running

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; name one in CHROMIUM"),
]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "a token of tests"
WIDTHS = [360, 1280]


@pytest.fixture(scope="module")
def model(model_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(model_folder(*MODALITIES), folder)
    Calibration(
        classes=CLASSES, temperature=1.5, alpha=0.1, lowest_probability=0.3, largest_set=2, abstain_below=0.34, rows=50
    ).write(folder)
    return folder


@pytest.fixture(scope="module")
def predictor(model) -> Predictor:
    return Predictor.load(model)


@pytest.fixture(scope="module")
def address(model) -> Iterator[str]:
    with running(page_app(model)) as found:
        yield found


@pytest.fixture(scope="module")
def guarded_address(model) -> Iterator[str]:
    with running(page_app(model, TOKEN)) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("chromium")), executable_path=CHROMIUM, args=FLAGS, headless=True
        )
        yield context
        context.close()


@pytest.fixture
def page(browser) -> Iterator:
    """An empty tab; in the end nothing was asked of another server, and no script or policy was violated."""
    opened = browser.new_page()
    opened.set_default_timeout(15_000)
    faults: list[str] = []
    asked: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda line: faults.append(line.text) if "Content Security Policy" in line.text else None)
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    opened.close()
    assert faults == []
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []


def choose(page, title: str) -> None:
    page.get_by_label("Synthetic example").select_option(label=title)
    page.get_by_text("Ready. Press Diagnose.").wait_for()


def diagnose(page) -> None:
    page.get_by_role("button", name="Diagnose").click()
    page.locator("#result:not([hidden]), .faults").first.wait_for()


def shown_bars(page, name: str) -> dict[str, str]:
    return dict(
        row.locator("span").evaluate_all("spans => [spans[0].textContent, spans[2].textContent]")
        for row in page.locator(f"#{name} li").all()
    )


def upload(page, tmp_path: Path, content: object) -> None:
    path = tmp_path / "patient.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    page.get_by_label("or a patient as a JSON file").set_input_files(path)


def test_an_example_is_shown_and_diagnosed_as_the_model_does(page, address, predictor):
    page.goto(address)
    assert page.get_by_text("Not for clinical use.").is_visible()
    choose(page, "Labelled COPD")
    assert page.locator("#model").text_content() == "vitalfuse-diagnosis, not from the registry"
    patient = json.loads((EXAMPLES / "labelled_copd.json").read_text())["patient"]
    channels = {reading["channel"] for reading in patient["observations"]}
    assert page.locator("#charts figure").count() == len(channels) == 5
    label = page.get_by_role("img", name="Heart rate").get_attribute("aria-label")
    assert f"{sum(r['channel'] == 'heart_rate' for r in patient['observations'])} readings" in label
    assert page.locator("#charts rect.window").count() == 5
    assert "the first 2 hours" in page.locator("#window").text_content()
    assert page.locator("#note-shown").text_content() == "\n".join(note["text"] for note in patient["note"])
    assert page.locator("#image img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 64

    diagnose(page)
    (expected,) = predictor.diagnose(parse_patients([patient]))
    words = {"copd": "COPD", "healthy": "Healthy", "diabetes": "Diabetes"}
    assert shown_bars(page, "probabilities") == {
        words[name]: f"{100 * value:.1f} %" for name, value in expected.probabilities.items()
    }
    assert shown_bars(page, "attention") == {"Series": "33.3 %", "Image": "33.3 %", "Note": "33.3 %"}
    verdict = page.locator("#verdict").text_content()
    assert verdict.startswith("The model abstains" if expected.diagnosis == "abstain" else words[expected.diagnosis])
    for name in expected.conformal_set:
        assert words[name] in page.locator("#conformal").text_content()
    assert [item.text_content() for item in page.locator("#warnings li").all()] == expected.warnings
    facts = page.locator("#facts").text_content()
    assert "vitalfuse-diagnosis" in facts and "Versionnot from the registry" in facts and " ms" in facts


def test_a_model_that_abstains_says_so_and_absent_modalities_are_marked(page, address, tmp_path):
    page.goto(address)
    # Opposite readings leave the hand-made model without a preference: a third for each class.
    upload(page, tmp_path, {"note": "zzz", "observations": []})
    page.get_by_text("Ready. Press Diagnose.").wait_for()
    diagnose(page)
    attention = page.locator("#attention li").all_text_contents()
    assert attention[0].startswith("Series (not used)") and attention[1].startswith("Image (not used)")
    assert attention[2].startswith("Note100.0")


def test_a_note_and_an_image_of_the_form_take_the_place_of_the_patients(page, address, predictor, tmp_path):
    page.goto(address)
    choose(page, "Labelled healthy")
    page.get_by_label("Note", exact=True).fill("cough <img src=x onerror=alert(1)>")
    picture = io.BytesIO()
    Image.new("L", (2, 2), 255).save(picture, "PNG")
    page.get_by_label("Image file, in place of the patient's own").set_input_files(
        {"name": "white.png", "mimeType": "image/png", "buffer": picture.getvalue()}
    )
    assert page.locator("#note-shown").text_content() == "cough <img src=x onerror=alert(1)>"
    assert page.locator("#note-shown img").count() == 0
    diagnose(page)
    patient = json.loads((EXAMPLES / "labelled_healthy.json").read_text())["patient"]
    patient |= {"note": "cough <img src=x onerror=alert(1)>", "image": base64.b64encode(picture.getvalue()).decode()}
    (expected,) = predictor.diagnose(parse_patients([patient]))
    shown = shown_bars(page, "probabilities")
    assert sorted(shown.values()) == sorted(f"{100 * value:.1f} %" for value in expected.probabilities.values())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["The file is not JSON."]),
        ([3], ["The file holds no patient"]),
        (
            {"observations": [{"channel": "heart_rate", "time": "2022-06-01T10:00:00Z", "value": 72, "unit": "kg"}]},
            ["cannot use this patient", "observations[0].unit"],
        ),
        (
            {"observations": [{"channel": "heart_rate", "time": "yesterday", "value": None}], "image": [[0.5]]},
            ["does not understand", "observations[0].time", "observations[0].value", "offset from UTC"],
        ),
        ({}, ["patient"]),
    ],
)
def test_what_is_wrong_is_said_in_words_that_name_the_field(page, address, tmp_path, content, words):
    page.goto(address)
    upload(page, tmp_path, content)
    if not isinstance(content, dict):
        page.locator(".faults").wait_for()
    else:
        page.get_by_text("Ready. Press Diagnose.").wait_for()
        diagnose(page)
    told = page.get_by_role("alert").text_content()
    assert all(word in told for word in words), told
    assert not page.locator("#result").is_visible()


def test_an_answer_does_not_stay_beside_a_changed_patient(page, address):
    page.goto(address)
    choose(page, "Labelled healthy")
    diagnose(page)
    assert page.locator("#result").is_visible()
    page.get_by_label("Note", exact=True).fill("another note")
    assert not page.locator("#result").is_visible()
    assert page.locator("#status").text_content() == "Changed. Press Diagnose."


def test_a_version_that_was_promoted_meanwhile_is_named(page, address):
    page.goto(address)
    choose(page, "Labelled healthy")

    def promoted(route) -> None:
        answer = route.fetch()
        content = answer.json()
        content["predictions"][0]["model"]["version"] = "2"
        route.fulfill(response=answer, json=content)

    page.route("**/invocations", promoted)
    told = {"name": "vitalfuse-diagnosis", "version": "2", "modalities": [], "window": None, "intended_use": ""}
    page.route("**/page/model", lambda route: route.fulfill(json=told))
    diagnose(page)
    page.get_by_text("vitalfuse-diagnosis, version 2").wait_for()


def test_a_single_reading_is_drawn_in_the_middle_of_its_window(page, address, tmp_path):
    page.goto(address)
    reading = {"channel": "heart_rate", "time": "2022-06-01T10:00:00Z", "value": 80}
    upload(page, tmp_path, {"observations": [reading]})
    page.get_by_text("Ready. Press Diagnose.").wait_for()
    assert page.locator(".dot").get_attribute("d") == "M150.0 45.0h0.01"
    assert page.locator(".scale span").all_text_contents() == ["88", "72"]
    assert page.locator("rect.window").get_attribute("width") == "300"


def test_a_server_that_is_gone_is_told(page, model):
    with running(page_app(model)) as found:
        page.goto(found)
        choose(page, "Labelled diabetes")
    diagnose(page)
    assert "cannot be reached" in page.get_by_role("alert").text_content()


def test_the_token_is_asked_for_and_kept_in_memory_alone(page, browser, guarded_address):
    page.goto(guarded_address)
    choose(page, "Labelled hypertension")
    diagnose(page)
    assert "asks for an access token" in page.get_by_role("alert").text_content()
    page.get_by_text("Access token", exact=True).click()
    page.get_by_label("Bearer token, where the server asks for one").fill(TOKEN)
    diagnose(page)
    page.locator("#verdict").wait_for()
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    assert browser.cookies() == [] and TOKEN not in page.url
    page.reload()
    assert page.locator("#token").input_value() == ""


def test_it_works_by_keyboard_alone(page, address):
    page.goto(address)
    page.locator("#example option").nth(2).wait_for(state="attached")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the answer"
    page.keyboard.press("Tab")
    page.keyboard.type("Labelled d")
    page.get_by_text("Ready. Press Diagnose.").wait_for()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "diagnose":
            break
    page.keyboard.press("Enter")
    page.locator("#result:not([hidden])").wait_for()
    assert page.evaluate("document.activeElement.id") == "answer"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_screen_and_axe_finds_nothing(page, address, width, scheme, screenshot):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(address)
    choose(page, "Labelled cardiovascular disease")
    diagnose(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = axe.Axe().run(page).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []
    screenshot(page, f"page-{width}-{scheme}.png")


@pytest.fixture
def screenshot() -> Callable[..., None]:
    """Keeps a picture of the whole page in the folder that SCREENSHOTS names, for people to look at."""
    folder = os.environ.get("SCREENSHOTS")

    def keep(page, name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder) / name, full_page=True)

    return keep
