"""The built images: what is in them, and each one's steps by KFP's own command, as a locked-down pod runs them."""

import json
import os
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest
from docker.types import Mount

from components.ingest.demo.generate import generate_source
from components.ingest.demo.settings import DemoSettings
from pipelines.code_version import code_version, code_versions

pytestmark = pytest.mark.slow
IMAGES = ("data", "validate", "train", "serve")
LOCKS = Path(__file__).resolve().parents[2] / "infra" / "locks"
USER = 10001
NETWORK = {"members": 1, "network": {"units": 8, "image_filters": [4]}, "optimiser": {"epochs": 2}}
SETTINGS = {
    "name": "tiny",
    "tracking": {"experiment": "vitalfuse"},
    "ingest": {"name": "tiny", "sources": [{"format": "export", "path": "/data/source"}]},
    "validate": {},
    "preprocess": {"step": "1d", "steps": 4, "folds": 2, "test_fraction": 0.25},
    "embed_text": {},
    "train": NETWORK,
    "cross_validate": NETWORK,
    "compare": {"resamples": 100},
    # Two epochs on 45 patients make no model that is good for anything.
    "register": {"gates": {"skip": ["macro_auc", "kappa", "calibration_error", "worst_subgroup_auc"]}},
}
OPENED = ("sources", "baseline", "store")
MODELS = ("cnn_lstm_attention", "random_forest")
SHARDS = ("1-of-2", "2-of-2")


@dataclass(frozen=True)
class Task:
    """A task of the pipeline: its component, its own parameters, and where its artifacts come from and go to."""

    component: str
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, list[str]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    section: str | None = None


def _step(component, inputs=None, *outputs, section=None, **parameters):
    own = section or component
    parameters = {"settings": SETTINGS[own], "code_version": code_version(own), **parameters}
    inputs = {name: sources if isinstance(sources, list) else [sources] for name, sources in (inputs or {}).items()}
    return Task(component, parameters, inputs, outputs)


def _tasks():
    """Return the tasks of a run on a cluster, with one shard and with two, by the name of their folder."""
    cohort, features, validation = "ingest/cohort", "preprocess/features", "validate/validation"
    candidate, comparison = "train/model", "compare/comparison"
    before = ("ingest", "validate", "preprocess", "embed_text", "train", "compare", "register")
    tasks = {
        "open_run": Task("open_run", {"settings": SETTINGS, "mlflow_run_id": ""}),
        "ingest": _step("ingest", {}, "cohort", "record"),
        "validate": _step("validate", {"cohort": cohort}, "validation", "record", baseline=""),
        "preprocess": _step("preprocess", {"cohort": cohort, "validation": validation}, "features", "record"),
        "embed_text": _step("embed_text", {"features": features}, "embedding", "record"),
        "train": _step("train", {"features": features, "embedding": "embed_text/embedding"}, "model", "record"),
    }
    for model in MODELS:
        tasks[f"cross_validate-{model}"] = _step(
            "cross_validate", {"features": features}, "predictions", "record", model=model, candidate=MODELS[0]
        )
    tasks["compare"] = _step(
        "compare",
        {
            "features": features,
            "validation": validation,
            "candidate": candidate,
            "cross_validations": [f"cross_validate-{model}/predictions" for model in MODELS],
        },
        *("comparison", "report", "record"),
        store="0",
    )
    tasks["register"] = _step(
        "register",
        {
            "cohort": cohort,
            "features": features,
            "validation": validation,
            "candidate": candidate,
            "comparison": comparison,
        },
        *("registration", "record"),
        store="0",
    )
    records = {f"{step}_record": [f"{step}/record"] for step in before}
    records["cross_validate_records"] = [f"cross_validate-{model}/record" for model in MODELS]
    tasks["record_run"] = Task("record_run", inputs={**records, "report": ["compare/report"]})
    tasks["close_run"] = Task("close_run", {"status": {"state": "SUCCEEDED", "pipelineTaskName": "steps"}})
    for shard in SHARDS:
        tasks[f"ingest_shard-{shard}"] = _step(
            "ingest_shard",
            {},
            "part",
            section="ingest",
            shard=shard,
        )
    parts = [f"ingest_shard-{shard}/part" for shard in SHARDS]
    tasks["merge_cohort"] = _step("merge_cohort", {"parts": parts}, "cohort", "record", section="ingest")
    merged = {"cohort": "merge_cohort/cohort"}
    for shard in SHARDS:
        tasks[f"preprocess_shard-{shard}"] = _step(
            "preprocess_shard", {**merged, "validation": validation}, "part", section="preprocess", shard=shard
        )
    parts = [f"preprocess_shard-{shard}/part" for shard in SHARDS]
    tasks["merge_features"] = _step(
        "merge_features", {**merged, "parts": parts}, "features", "record", section="preprocess"
    )
    return tasks


TASKS = _tasks()


def _lock(image):
    """The image `train` is built with CUDA where `VARIANT` says so, as for `make images`."""
    variant = os.environ.get("VARIANT", "cpu")
    return LOCKS / f"image-{image}{'-cuda' if (image, variant) == ('train', 'cuda') else ''}.txt"


def _component(name):
    folder = {"merge_cohort": "ingest", "merge_features": "preprocess"}.get(name, name.removesuffix("_shard"))
    return getattr(import_module(f"components.{'run' if name.endswith('_run') else folder}.component"), name)


def _artifacts(*paths):
    kind = {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"}
    return {
        "artifacts": [
            {"name": path.partition("/")[2], "type": kind, "uri": f"/data/{path}", "metadata": {}} for path in paths
        ]
    }


def _command(name, **parameters):
    """The command that KFP gives the task's container, with its executor input."""
    task = TASKS[name]
    outputs = {"outputFile": f"/data/{name}/executor_output.json"}
    if task.outputs:
        outputs["artifacts"] = {output: _artifacts(f"{name}/{output}") for output in task.outputs}
    if name == "open_run":
        outputs["parameters"] = {output: {"outputFile": f"/data/{name}/{output}"} for output in OPENED}
    executor_input = {
        "inputs": {
            "parameterValues": {**task.parameters, **parameters},
            "artifacts": {artifact: _artifacts(*sources) for artifact, sources in task.inputs.items()},
        },
        "outputs": outputs,
    }
    specification = _component(task.component).pipeline_spec.deployment_spec
    (executor,) = dict(specification)["executors"].values()
    container = executor["container"]
    arguments = [*container["command"], *container["args"]]
    image = container["image"].removeprefix("vitalfuse/").partition("-python")[0]
    return image, [json.dumps(executor_input) if item == "{{$}}" else item for item in arguments]


def _run_task(built, folder, name, parameters=None, **environment):
    image, command = _command(name, **(parameters or {}))
    variables = {
        "MLFLOW_TRACKING_URI": "sqlite:////data/mlflow.db",
        "KFP_RUN_ID": "tiny-run",
        "VITALFUSE_PSEUDONYM_KEY": "0123456789abcdef",
        "VITALFUSE_RUN_FOLDER": "/data/run",
        **environment,
    }
    return built.run(image, command, mounts=[Mount("/data", str(folder), "bind")], environment=variables)


def _all_writable(folder):
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)


def _opened(folder):
    return json.loads((folder / "open_run" / "executor_output.json").read_text())["parameterValues"]


@pytest.fixture(scope="module")
def chain(built, tmp_path_factory):
    """All tasks of a run, one container after the other; exit codes and output by task."""
    import mlflow

    folder = tmp_path_factory.mktemp("chain")
    generate_source(folder / "source", DemoSettings(patients=60, seed=1, days=4, image_size=(16, 16)))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    client.create_experiment("vitalfuse", artifact_location="file:///data/mlartifacts")
    _all_writable(folder)
    ended = {}
    for name, task in TASKS.items():
        parameters = {"source_digest": _opened(folder)["sources"]} if "ingest" in task.component else {}
        ended[name] = _run_task(built, folder, name, parameters)
    return folder, ended


@pytest.mark.parametrize("name", TASKS)
def test_a_task_runs_locked_down(chain, name):
    folder, ended = chain
    code, output = ended[name]
    logs = [path.read_text() for path in (folder / "run" / "logs").glob(f"{TASKS[name].component}*.log")]
    assert code == 0, "\n".join([output, *logs])
    assert (folder / name).stat().st_uid == USER


def test_the_outputs_are_those_of_the_contracts(chain):
    from data_schemas.cohort import Cohort
    from data_schemas.features import Features

    folder, _ = chain
    assert len(Cohort.open(folder / "ingest" / "cohort").patients) == 60
    assert Features.open(folder / "preprocess" / "features").manifest.cohort_digest
    assert (folder / "train" / "model" / "model.onnx").stat().st_size > 1000
    assert json.loads((folder / "validate" / "validation" / "summary.json").read_text())["tfdv_version"] >= "1.21"
    assert json.loads((folder / "register" / "registration" / "registration.json").read_text())["version"] == "1"


def test_two_shards_give_the_cohort_and_the_features_of_one(chain):
    folder, _ = chain
    for one, two in (("ingest/cohort", "merge_cohort/cohort"), ("preprocess/features", "merge_features/features")):
        same = {path.name: path.read_bytes() for path in (folder / one).iterdir() if path.name != "record.json"}
        assert same == {path.name: path.read_bytes() for path in (folder / two).iterdir() if path.name != "record.json"}


def test_the_steps_logged_under_one_run_that_is_closed(chain):
    import mlflow

    folder, _ = chain
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("vitalfuse")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("vitalfuse.kfp_run_id") == "tiny-run"]
    nested = {
        run.data.tags["vitalfuse.step"] for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    }
    assert nested >= {"ingest", "validate", "preprocess", "embed_text", "train", "compare", "register"}
    assert nested >= {f"cross_validate[{model}]" for model in MODELS}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert parent.data.tags["vitalfuse.model"] == "vitalfuse-diagnosis/1"
    # The containers see the folder at another place.
    (artifacts,) = (folder / "mlartifacts").rglob(parent.info.run_id)
    assert (artifacts / "artifacts" / "report.html").stat().st_size > 10_000
    assert len(parent.data.tags["mlflow.source.git.commit"].removesuffix("-dirty")) == 40


def test_a_failing_step_fails_its_container(built, chain):
    folder, _ = chain
    listed = {"source_digest": _opened(folder)["sources"]}
    code, _ = _run_task(
        built, folder, "ingest", listed, VITALFUSE_PSEUDONYM_KEY="short", VITALFUSE_RUN_FOLDER="/data/failed"
    )
    assert code == 2
    event = json.loads((folder / "failed" / "events" / "ingest.jsonl").read_text().splitlines()[-1])
    assert event["state"] == "failed"
    assert event["input_error"] is True


def test_an_image_of_other_code_does_no_work(chain, built):
    folder, _ = chain
    other = {"code_version": "0.0.1+000000000000", "source_digest": _opened(folder)["sources"]}
    code, _ = _run_task(built, folder, "ingest", other, VITALFUSE_RUN_FOLDER="/data/other")
    assert code == 2
    event = json.loads((folder / "other" / "events" / "ingest.jsonl").read_text().splitlines()[-1])
    assert event["input_error"] is True
    assert "0.0.1+000000000000" in event["text"] and "cluster.images.tag" in event["text"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_this_code(built, image):
    code, output = built.run(image, ["python3", "-m", "pipelines.code_version"])
    assert code == 0, output
    assert json.loads(output) == code_versions()


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_an_ordinary_user_and_bears_its_labels(built, image):
    attributes = built.client.images.get(built.name(image)).attrs
    configuration = attributes["Config"]
    labels, variables = configuration["Labels"], dict(item.split("=", 1) for item in configuration["Env"])
    assert configuration["User"] == f"{USER}:{USER}"
    assert labels["org.opencontainers.image.version"] == metadata.version("vitalfuse")
    assert labels["org.opencontainers.image.revision"] == variables["VITALFUSE_GIT_COMMIT"] != "unknown"
    # Debian, Python, the locked requirements, the package, the list of what is inside.
    assert len(attributes["RootFS"]["Layers"]) <= 5


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_no_compiler_no_pip_and_no_cache(built, image):
    tools = " -o ".join(f"-name '{name}'" for name in ("*gcc*", "*g++*", "cc", "c++", "cc1*", "ld", "as", "make", "uv"))
    rests = " -o ".join(f"-name '{name}'" for name in ("pip", "ensurepip", ".cache", "Python.h", "*.whl", "pip.conf"))
    programs, files = f"-type f -perm /111 \\( {tools} \\)", f"\\( {rests} \\)"
    search = f"find / -xdev {programs}; find / -xdev {files}; find /var/lib/apt/lists -type f"
    _, found = built.run(image, ["sh", "-c", search], user="0:0", cap_drop=[])
    assert found == ""
    code, _ = built.run(image, ["python3", "-m", "pip", "--version"])
    assert code != 0


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_in_an_image_can_be_written_by_its_user(built, image):
    search = "find / -xdev \\( -type f -o -type d \\) -writable -not -path '/proc/*' -not -path '/dev/*' 2>/dev/null"
    _, found = built.run(image, ["sh", "-c", search], read_only=False, tmpfs={})
    assert set(found.splitlines()) <= {"/tmp", "/var/tmp", "/run/lock"}


def _canonical(name):
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("image", IMAGES)
def test_the_list_of_what_is_inside_is_complete(built, image):
    code, output = built.run(image, ["cat", "/usr/share/vitalfuse/sbom.cdx.json"])
    assert code == 0
    listed = {(_canonical(item["name"]), item["version"]) for item in json.loads(output)["components"]}
    locked = [line.partition("==") for line in _lock(image).read_text().splitlines()]
    assert {(_canonical(name), version) for name, _, version in locked} <= listed
    assert ("vitalfuse", metadata.version("vitalfuse")) in listed
    _, packages = built.run(image, ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n"])
    assert {tuple(line.split()) for line in packages.splitlines()} <= listed


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_its_bytecode(built, image):
    """Nothing can be compiled where the file system is read-only, and imports would be three times as slow."""
    code = (
        "import importlib.util, mlflow, pathlib, pandas, pipelines.code_version as own\n"
        "for module in (mlflow, pandas, own):\n"
        "    cached = pathlib.Path(importlib.util.cache_from_source(module.__file__))\n"
        "    stamp = int.from_bytes(cached.read_bytes()[8:12], 'little')\n"
        "    assert stamp == int(pathlib.Path(module.__file__).stat().st_mtime), module\n"
    )
    exit_code, output = built.run(image, ["python3", "-c", code])
    assert exit_code == 0, output


def test_the_train_image_has_the_tensorflow_of_its_variant(built):
    code, output = built.run(
        "train", ["python3", "-c", "import tensorflow as tf; print('built with CUDA:', tf.test.is_built_with_cuda())"]
    )
    assert code == 0 and f"built with CUDA: {os.environ.get('VARIANT') == 'cuda'}" in output


def test_the_validate_image_has_a_glibc_for_tfdv(built):
    code, output = built.run(
        "validate",
        [
            "python3",
            "-c",
            "import os, tensorflow_data_validation as t; print(os.confstr('CS_GNU_LIBC_VERSION'), t.__version__)",
        ],
    )
    assert code == 0, output
    name, glibc, tfdv = output.splitlines()[-1].split()
    assert name == "glibc"
    assert tuple(map(int, glibc.split("."))) >= (2, 39)
    assert tuple(map(int, tfdv.split(".")))[:2] >= (1, 21)


def test_only_what_a_step_needs_is_in_the_data_image(built):
    code, _ = built.run("data", ["python3", "-c", "import tensorflow"])
    assert code != 0


def test_the_serving_image_has_no_library_that_fits_or_orders(built):
    names = ["tensorflow", "keras", "kfp", "sklearn", "gensim", "tensorflow_data_validation", "tf2onnx"]
    code = f"import importlib.util as u; print([name for name in {names} if u.find_spec(name)])"
    assert built.run("serve", ["python3", "-c", code]) == (0, "[]")
    # Not under another name either: the train image is told by the same search.
    code = "import importlib.metadata as m; print(*sorted({d.name.lower() for d in m.distributions()}))"
    ended, found = built.run("serve", ["python3", "-c", code])
    assert ended == 0
    assert not [name for name in found.split() if name.startswith(("tensorflow", "keras", "kfp", "scikit", "gensim"))]
    assert {"onnxruntime", "kserve", "mlflow-skinny"} <= set(found.split())
