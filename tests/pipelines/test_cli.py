"""The command line: quick, helpful, and careful with what is there already."""

import json
import subprocess
import sys

import click
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console

from components.ingest.describe import describe_cohort
from components.ingest.ingest import ingest_sources
from components.ingest.settings import IngestSettings
from pipelines.cli import _mlflow_hint, main
from pipelines.describe import print_description
from pipelines.settings import CONFIGS, Settings

COMMANDS = {
    ("run",): ["--config", "--set", "--workspace", "Exit code"],
    ("compile",): ["--output", "diagnosis.yaml", "KFP"],
    ("configs",): ["settings files"],
    ("settings",): ["docs/settings.md"],
    ("cohort",): ["generate", "describe"],
    ("cohort", "generate"): ["--patients", "--seed", "--layout", "--force", "300", "proves nothing clinical"],
    ("cohort", "describe"): ["FOLDER", "--workspace", "No patient is named"],
    ("deploy",): ["--canary", "--namespace", "--output", "--apply", "KServe", "@champion"],
    ("train-job",): ["FEATURES EMBEDDING MODEL", "--nodes", "--apply", "Kubeflow Trainer v2"],
    ("monitor",): ["LOG", "--labels", "--reference", "--version", "Exit code", "3 when"],
    ("serve",): ["--alias", "--folder", "--port", "VITALFUSE_SERVE_TOKEN", "/v1/diagnose"],
    ("compare",): ["RUN RUN...", "--json", "--tracking-uri", "patients that both have"],
    ("promote",): ["VERSION", "--to", "--by", "--reason", "--override-gates", "--expect-champion", "Exit code"],
    ("rollback",): ["--by", "--reason", "previous champion"],
    ("history",): ["--head", "--json", "Exit code"],
    ("ui",): ["--workspace", "--host", "--port", "5000"],
    ("submit",): ["--host", "--token-file", "--wait", "KF_PIPELINES_TOKEN", "Exit code"],
    ("runs",): ["--host", "--limit", "newest first"],
    ("logs",): ["RUN", "STEP", "cross_validate[gru]"],
    ("cancel",): ["RUN", "--tracking-uri", "killed"],
    ("retry",): ["RUN", "--wait", "Exit code"],
    ("schedule",): ["create", "list", "pause", "resume", "delete"],
    ("schedule", "create"): ["--cron", "--every", "--start", "--end", "--no-catchup", "UTC"],
    ("schedule", "list"): ["--host"],
    ("schedule", "pause"): ["SCHEDULE"],
    ("schedule", "resume"): ["SCHEDULE"],
    ("schedule", "delete"): ["SCHEDULE"],
}


def test_help_imports_nothing_heavy():
    code = (
        "import json, sys\n"
        "from click.testing import CliRunner\n"
        "from pipelines.cli import main\n"
        "result = CliRunner().invoke(main, ['--help'])\n"
        "assert result.exit_code == 0, result.output\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {
        "tensorflow",
        "keras",
        "kfp",
        "kfp_server_api",
        "mlflow",
        "pandas",
        "numpy",
        "sklearn",
        "pyarrow",
        "pydantic",
        "rich",
        "yaml",
    }
    assert not heavy & set(json.loads(completed.stdout))


def test_help_names_every_command_and_keeps_its_examples_on_lines_of_their_own(vitalfuse):
    lines = [line.strip() for line in vitalfuse("--help").output.splitlines()]
    assert "Try it:          vitalfuse cohort generate && vitalfuse run" in lines
    assert "Not for clinical use." in lines
    for command in {names[0] for names in COMMANDS}:
        assert any(line.startswith(f"{command} ") for line in lines), command


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_each_command_explains_itself(vitalfuse, command):
    result = vitalfuse(*command, "--help")
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for expected in COMMANDS[command]:
        assert expected in text


def test_every_command_is_listed_above():
    def walk(group, prefix=()):
        for name, command in group.commands.items():
            yield (*prefix, name)
            if hasattr(command, "commands"):
                yield from walk(command, (*prefix, name))

    assert set(walk(main)) == set(COMMANDS)


def test_every_option_has_a_help_text():
    def options(group):
        for command in group.commands.values():
            yield from (parameter for parameter in command.params if isinstance(parameter, click.Option))
            if hasattr(command, "commands"):
                yield from options(command)

    assert [option.name for option in options(main) if not option.help] == []


def test_compiled_pipeline_is_what_kfp_loads(project, vitalfuse):
    from kfp import components

    result = vitalfuse("compile", "--output", "out/pipeline.yaml")
    assert result.exit_code == 0, result.output
    assert "wrote out/pipeline.yaml" in result.output
    loaded = components.load_component_from_file(str(project / "out" / "pipeline.yaml"))
    assert loaded.name == "vitalfuse-diagnosis"
    assert {"ingest_settings", "models", "settings"} <= set(loaded.component_spec.inputs)
    assert [path.name for path in (project / "out").iterdir()] == ["pipeline.yaml"]


def test_compile_wants_a_yaml_file(project, vitalfuse):
    result = vitalfuse("compile", "--output", "pipeline.json")
    assert result.exit_code == 2
    assert "End it in .yaml" in result.stderr
    assert not (project / "pipeline.json").exists()


def test_output_below_a_file_is_told_without_a_traceback(project, vitalfuse):
    for command in (["compile"], ["train-job", "s3://b/features", "s3://b/embedding", "s3://b/model"]):
        result = vitalfuse(*command, "--output", "settings.yaml/pipeline.yaml")
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith(
            "vitalfuse: settings.yaml/pipeline.yaml, field --output: can't be written (settings.yaml is a file)"
        )


def test_generate_writes_what_ingest_reads(project, vitalfuse):
    arguments = ["cohort", "generate", "--output", "new", "--patients", "12", "--days", "2", "--seed", "4"]
    result = vitalfuse(*arguments)
    assert result.exit_code == 0, result.output
    assert "wrote new: 12 synthetic patients" in result.stdout
    assert len(pd.read_csv(project / "new" / "patients.csv")) == 12


def test_generate_refuses_to_replace_unless_told(project, vitalfuse):
    before = (project / "source" / "patients.csv").read_bytes()
    arguments = ["cohort", "generate", "--output", "source", "--patients", "12", "--days", "2"]
    refused = vitalfuse(*arguments)
    assert refused.exit_code == 2
    assert "source, field --output: already exists. Choose another, or give --force." in refused.stderr
    assert (project / "source" / "patients.csv").read_bytes() == before
    assert vitalfuse(*arguments, "--force").exit_code == 0
    assert len(pd.read_csv(project / "source" / "patients.csv")) == 12


def test_generate_writes_table_one_to_a_single_file(project, vitalfuse):
    arguments = ["--output", "table.csv", "--layout", "table_one", "--patients", "6", "--days", "2"]
    assert vitalfuse("cohort", "generate", *arguments).exit_code == 0
    assert len(pd.read_csv(project / "table.csv")) == 12


def test_generate_says_which_number_is_too_large(project, vitalfuse):
    result = vitalfuse("cohort", "generate", "--output", "new", "--days", "1000")
    assert result.exit_code == 2
    assert "field --days:" in result.stderr and "received 1000" in result.stderr
    assert not (project / "new").exists()


def test_configs_lists_all_with_a_description(vitalfuse):
    lines = vitalfuse("configs").output.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    assert all(len(line.split()) > 3 for line in lines)


def test_ui_refuses_a_workspace_without_a_store(project, vitalfuse):
    result = vitalfuse("ui", "--workspace", "source")
    assert result.exit_code == 2
    assert "source, field --workspace: holds no MLflow store. Run `vitalfuse run`;" in result.stderr
    # Opening a store that isn't there would make one.
    assert not list((project / "source").glob("*.db"))


def test_ui_opens_the_store_of_the_workspace(project, vitalfuse, monkeypatch):
    (project / "workspace").mkdir()
    (project / "workspace" / "mlflow.db").touch()
    called = []
    monkeypatch.setattr("os.execv", lambda path, arguments: called.append(arguments))
    result = vitalfuse("ui", "--port", "5055")
    assert "http://127.0.0.1:5055" in result.output
    arguments = called[0]
    assert arguments[arguments.index("--backend-store-uri") + 1] == f"sqlite:///{project / 'workspace' / 'mlflow.db'}"
    assert arguments[arguments.index("--port") + 1] == "5055"


@pytest.fixture(scope="module")
def cohort(demo_source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort") / "cohort"
    section = {"name": "tiny [ward]", "sources": [{"format": "export", "path": str(demo_source)}]}
    ingest_sources(folder, IngestSettings.model_validate(section), pseudonym_key=b"key of tests")
    return folder


def test_describe_shows_classes_channels_modalities_and_rejected_rows(cohort, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    result = CliRunner().invoke(main, ["cohort", "describe", str(cohort)])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines() if line.strip()]
    description = describe_cohort(cohort)
    for name, count in description["classes"].items():
        assert [name, str(count), f"{count / 40:.0%}"] in [row[:3] for row in rows]
    # Names in square brackets are text, not markup.
    assert rows[0][:2] == ["tiny", "[ward]"]
    assert "proves nothing clinical" in result.output
    assert ["systolic_pressure", "mm[Hg]"] in [row[:2] for row in rows]
    assert ["series", str(description["modalities"]["series"])] in [row[:2] for row in rows]
    for reason, count in description["rejected"].items():
        assert f"{count}  {reason}" in result.output
    assert max(len(line.rstrip()) for line in result.output.splitlines()) <= 100


@pytest.mark.parametrize("width", [60, 80])
def test_describe_breaks_no_number_on_a_small_terminal(cohort, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    output = CliRunner().invoke(main, ["cohort", "describe", str(cohort)]).output
    assert max(len(line.rstrip()) for line in output.splitlines()) <= width
    assert (output.count("Channels") == 2) == (width == 60)
    for name, channel in describe_cohort(cohort)["channels"].items():
        told = [word for line in output.splitlines() for word in line.split() if line.split()[:1] == [name]]
        figures = [
            f"{channel['values']:,}",
            *(f"{channel['quantiles'][share]:.4g}" for share in ("0.05", "0.5", "0.95")),
        ]
        assert [word for word in told if word in figures] == figures


def test_describe_names_no_patient(cohort, demo_source):
    result = CliRunner().invoke(main, ["cohort", "describe", str(cohort)])
    patients = pd.read_csv(demo_source / "patients.csv", dtype=str)
    pseudonyms = pd.read_parquet(cohort / "patients.parquet")["patient_id"]
    assert not [value for value in [*patients["mrn"], *patients["name"], *pseudonyms] if value in result.output]


def test_describe_shows_conditions_only_where_they_tell_more():
    description = {
        "name": "two conditions",
        "digest": "0" * 64,
        "synthetic": False,
        "patients": 2,
        "classes": {"copd": 1, "healthy": 1},
        "conditions": {"copd": 1, "diabetes": 1, "healthy": 1},
        "sexes": {"unknown": 2},
        "sites": 0,
        "channels": {},
        "modalities": {"series": 0, "image": 0, "text": 2},
        "time": {},
        "rejected": {},
        "sources": [],
    }
    shown = _printed(description)
    assert "Conditions" in shown and "diabetes" in shown
    assert "synthetic" not in shown and "Rejected" not in shown and "Channels" not in shown
    assert "Conditions" not in _printed({**description, "conditions": {"copd": 1, "healthy": 1}})


def _printed(description):
    console = Console(width=100)
    with console.capture() as capture:
        print_description(console, description)
    return capture.get()


def test_describe_wants_a_cohort(project, vitalfuse):
    result = vitalfuse("cohort", "describe", "source")
    assert result.exit_code == 2
    assert "source: is not a cohort: it has no manifest.json. Run ingest first." in result.stderr
    result = vitalfuse("cohort", "describe", "--workspace", "elsewhere")
    assert result.exit_code == 2
    assert "elsewhere: holds no ingested cohort. Run `vitalfuse run`" in result.stderr


@pytest.mark.parametrize(
    ("on_path", "uri", "expected"),
    [
        (True, None, "vitalfuse ui --workspace ws"),
        (False, None, "env/bin/vitalfuse ui --workspace ws"),
        (True, "https://me:secret@mlflow.example:5000", "https://mlflow.example:5000"),
    ],
)
def test_a_run_ends_with_a_way_to_mlflow_that_works_as_it_stands(on_path, uri, expected, tmp_path, monkeypatch):
    settings = Settings.model_validate(
        {
            "name": "x",
            "workspace": "ws",
            "tracking": {"uri": uri},
            "ingest": {"name": "x", "sources": [{"format": "export", "path": "x"}]},
        }
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "env" / "bin" / "vitalfuse"), "run"])
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/vitalfuse" if on_path else None)
    assert _mlflow_hint(settings) == expected
