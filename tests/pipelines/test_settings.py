import json
from pathlib import Path

import pytest
import yaml

from components.common.uris import holds_credentials, without_passwords
from data_schemas.errors import InputError
from pipelines.local import _log_inputs, pipeline_arguments
from pipelines.reference import settings_reference
from pipelines.settings import Settings, config_names, find_config, load_settings

MINIMAL = {"name": "x", "ingest": {"name": "x", "sources": [{"format": "export", "path": "source"}]}}


def _load(tmp_path, content, overrides=()):
    path = tmp_path / "settings.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_settings(path, list(overrides))


@pytest.mark.parametrize("name", config_names())
def test_every_ready_settings_file_loads(name):
    assert load_settings(find_config(name)).name


@pytest.mark.parametrize(
    ("content", "field", "nearest"),
    [
        ({**MINIMAL, "preproces": {}}, "field preproces", "'preprocess'"),
        ({**MINIMAL, "preprocess": {"fold": 5}}, "field preprocess.fold", "'folds'"),
        ({**MINIMAL, "train": {"optimiser": {"epoch": 5}}}, "field train.optimiser.epoch", "'epochs'"),
        (
            {"name": "x", "ingest": {"name": "x", "sources": [{"format": "export", "pth": "s", "path": "s"}]}},
            "field ingest.sources.0.pth",
            "'path'",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_name(tmp_path, content, field, nearest):
    with pytest.raises(InputError) as caught:
        _load(tmp_path, content)
    message = str(caught.value)
    assert "settings.yaml" in message
    assert field in message
    assert f"Did you mean {nearest}?" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"name": "x"}, ["field ingest", "missing"]),
        ({**MINIMAL, "preprocess": {"folds": 1}}, ["field preprocess.folds", "received 1"]),
        ({**MINIMAL, "models": ["cnn_lstm_attention", "lstn"]}, ["field models", "'lstn'", "did you mean 'lstm'"]),
        ({**MINIMAL, "models": ["svm"]}, ["candidate", "cnn_lstm_attention"]),
        ("name: [", ["row 1", "not valid YAML"]),
        ("- a\n", ["does not hold a mapping"]),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, content, parts):
    with pytest.raises(InputError) as caught:
        _load(tmp_path, content)
    for part in parts:
        assert part in str(caught.value)


def test_overrides_go_over_the_file(tmp_path):
    settings = _load(tmp_path, MINIMAL, ["preprocess.folds=3", "ingest.sources.0.path=other", "name=y"])
    assert settings.preprocess.folds == 3
    assert settings.ingest.sources[0].path == "other"
    assert settings.name == "y"


@pytest.mark.parametrize("override", ["preprocess.folds", "=3", "name.x=1", "ingest.sources.7.path=x"])
def test_a_malformed_override_is_refused(tmp_path, override):
    with pytest.raises(InputError, match="--set"):
        _load(tmp_path, MINIMAL, [override])


def test_environment_variables_in_the_file_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_FOLDER", "/data")
    content = {"name": "x", "ingest": {"name": "x", "sources": [{"format": "export", "path": "${DATA_FOLDER}/a"}]}}
    assert _load(tmp_path, content).ingest.sources[0].path == "/data/a"


def test_a_password_in_the_tracking_uri_is_used_and_never_written_down(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKING", "http://me:hunter2@mlflow.example.org:5000/")
    path = tmp_path / "settings.yaml"
    # A literal one is written into the copy of the file as well.
    path.write_text(yaml.safe_dump({**MINIMAL, "tracking": {"uri": "${TRACKING}"}}) + "# http://me:hunter2@mlflow\n")
    settings = load_settings(path)
    assert settings.tracking.uri == "http://me:hunter2@mlflow.example.org:5000/"
    arguments = pipeline_arguments(settings)
    assert arguments["settings"]["tracking"]["uri"] == "http://mlflow.example.org:5000/"
    logged = []
    monkeypatch.setattr("pipelines.local.tracking.log_files", lambda store, run_id, files: logged.extend(files))
    monkeypatch.setattr("pipelines.cluster.compile_pipeline", lambda output, **_: output.write_text("{}"))
    (tmp_path / "run").mkdir()
    _log_inputs(None, "run", tmp_path / "run", settings, path)
    texts = {file.name: file.read_text() for file, _ in logged}
    assert set(texts) == {"pipeline.yaml", "settings.yaml", "settings_resolved.yaml"}
    assert "http://mlflow.example.org:5000/" in texts["settings_resolved.yaml"]
    assert "hunter2" not in "".join(texts.values()) + str(arguments) + str(settings.model_dump())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hunter2@host:5000/x", "http://host:5000/x"),
        ("postgresql://me:hunt@er2@host/db", "postgresql://host/db"),
        ("postgresql://mlflow:Ab/cd9@db.example/mlflow", "postgresql://db.example/mlflow"),
        ("http://host:5000/?mail=me@example.org", "http://host:5000/?mail=me@example.org"),
        ("sqlite:////data/me@home/mlflow.db", "sqlite:////data/me@home/mlflow.db"),
        ("no http://a:b@c, nor http://t0ken@d/ here", "no http://c, nor http://d/ here"),
        (
            "postgresql://host/db?user=me&password=hunter2&sslmode=require",
            "postgresql://host/db?user=&password=&sslmode=require",
        ),
        ("uri: 'http://host/?access_token=hunter2'", "uri: 'http://host/?access_token='"),
        ("http://host/?page_token_limit=7&password=", "http://host/?page_token_limit=7&password="),
        ("http://host/?mail=me@example.org", "http://host/?mail=me@example.org"),
        ("me@example.org", "me@example.org"),
    ],
)
def test_passwords_are_cut_out_of_uris(text, shown):
    assert without_passwords(text) == shown
    assert holds_credentials(text) is (text != shown)


def test_a_settings_file_that_is_not_there_is_told_with_the_ready_ones():
    with pytest.raises(InputError, match="demo"):
        find_config("nothing")


@pytest.mark.parametrize("name", config_names())
def test_sections_survive_the_way_through_kfp(name):
    """KFP carries no None, and every number as a float."""
    settings = load_settings(find_config(name))

    def as_kfp(value):
        if isinstance(value, dict):
            return {key: as_kfp(item) for key, item in value.items()}
        if isinstance(value, list):
            return [as_kfp(item) for item in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    for step, field in (
        ("ingest", "ingest"),
        ("validate", "validation"),
        ("preprocess", "preprocess"),
        ("embed_text", "embed_text"),
        ("train", "train"),
        ("cross_validate", "cross_validate"),
        ("compare", "compare"),
        ("register", "register_model"),
    ):
        section = getattr(settings, field)
        assert type(section).model_validate(as_kfp(settings.section(step))) == section


def test_the_reference_page_is_true():
    page = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
    assert page.read_text() == settings_reference(), "run: vitalfuse settings > docs/settings.md"


def test_the_reference_has_the_defaults_that_count_on_a_cluster():
    lines = settings_reference().splitlines()
    settings = Settings.model_validate(MINIMAL).cluster
    for key, value in settings.resources("compare").model_dump(exclude={"tolerations"}).items():
        (line,) = (line for line in lines if line.startswith(f"| `cluster.defaults.{key}` "))
        assert f"| `{json.dumps(value)}` |" in line
    train = settings.resources("train")
    values = [train.cpu, train.cpu_limit, train.memory, train.memory_limit, train.timeout]
    assert "| `train` | " + " | ".join(f"`{json.dumps(value)}`" for value in values) + " |" in lines


def test_every_setting_is_explained():
    for line in settings_reference().splitlines():
        if line.startswith("| `"):
            assert not line.endswith("|  |"), line


def test_settings_cannot_be_changed_after_loading(tmp_path):
    settings = _load(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        settings.name = "other"
    assert isinstance(settings, Settings)
