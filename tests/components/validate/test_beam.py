"""Statistics by a Beam pipeline against those computed in memory."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from components.validate.settings import ValidateSettings
from components.validate.tables import read_tables
from components.validate.validate import run_tfdv, validate_cohort

JOB = Path(__file__).parents[3] / "components" / "validate" / "tfdv_job.py"
# Read by TFDV's own protos, in the interpreter that has them.
DUMP = """
import sys
from google.protobuf import json_format
from tensorflow_metadata.proto.v0 import statistics_pb2
content = statistics_pb2.DatasetFeatureStatisticsList.FromString(open(sys.argv[1], "rb").read())
print(json_format.MessageToJson(content))
"""
# What TFDV estimates from quantile sketches, whose merges depend on how the examples are cut.
SKETCHED = {"histograms", "numValuesHistogram", "featureListLengthHistogram", "median"}


def _settings(runner, workers=1, **more):
    return ValidateSettings.model_validate({"beam": {"runner": runner, "workers": workers} | more})


def _statistics(folder, interpreter):
    command = [str(interpreter), "-c", DUMP, str(folder / "statistics.pb")]
    dataset = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["datasets"][0]
    return {".".join(feature["path"]["step"]): feature for feature in dataset.pop("features")}, dataset


def _exact(value):
    """Leave out what is sketched; round sums of floating-point numbers, whose order differs."""
    if isinstance(value, dict):
        return {name: _exact(inner) for name, inner in value.items() if name not in SKETCHED}
    if isinstance(value, list):
        return [_exact(inner) for inner in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


def _large(tables, images):
    """Enough values a patient for several quantile buckets, and missing ones."""
    random = np.random.default_rng(0)
    observations = tables["observations"]
    tables["observations"] = observations.loc[observations.index.repeat(40)].reset_index(drop=True)
    tables["observations"]["value"] += random.normal(size=len(tables["observations"]))
    tables["patients"].loc[3, "site"] = None
    tables["notes"] = tables["notes"].iloc[2:]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_statistics_of_beam_are_those_in_memory(make_cohort, tmp_path, tfdv_interpreter, workers):
    cohort = make_cohort(_large)
    found = {}
    for name, settings in (
        ("memory", _settings("in_memory")),
        ("beam", _settings("DirectRunner", workers, examples_per_file=5)),
    ):
        folder = tmp_path / name
        folder.mkdir()
        result = run_tfdv(read_tables(cohort), folder, settings, tfdv_interpreter)
        found[name] = (*_statistics(folder, tfdv_interpreter), result)
    (features, dataset, result), (beam_features, beam_dataset, beam_result) = found["memory"], found["beam"]
    assert dataset == beam_dataset and int(dataset["numExamples"]) == 12
    assert {name: _exact(feature) for name, feature in features.items()} == {
        name: _exact(feature) for name, feature in beam_features.items()
    }
    assert result["anomalies"] == beam_result["anomalies"]
    for channel in cohort.manifest.channel_names:
        values = np.sort(cohort.observations.query("channel == @channel")["value"])
        for features_of in (features, beam_features):
            rank = np.searchsorted(values, features_of[f"channel:{channel}"]["numStats"]["median"]) / len(values)
            # TFDV's sketches promise a hundredth of the ranks.
            assert rank == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_the_whole_step_on_beam_with_a_shared_folder_leaves_nothing_there(make_cohort, tmp_path, tfdv_interpreter):
    shared = tmp_path / "shared"
    shared.mkdir()
    settings = _settings("DirectRunner", folder=str(shared), examples_per_file=4, options={"job_name": "tests"})
    result = validate_cohort(make_cohort().folder, tmp_path / "output", settings)
    assert result.warnings == [] and result.params["validate.beam.runner"] == "DirectRunner"
    assert list(shared.iterdir()) == []


def test_options_of_the_runners(stub_tfdv):
    direct = {"runner": "DirectRunner", "workers": 2, "options": {"job_name": "x"}, "folder": None}
    assert stub_tfdv.beam_options(direct) == {
        "job_name": "x",
        "runner": "FnApiRunner",
        "direct_num_workers": 2,
        "direct_running_mode": "multi_processing",
    }
    options = {"flink_master": "host:8081", "parallelism": 8, "streaming": True}
    flink = {"runner": "FlinkRunner", "workers": 1, "options": options, "folder": "s3://bucket/a"}
    assert stub_tfdv.beam_options(flink) == {**options, "runner": "FlinkRunner"}


@pytest.mark.slow
def test_beam_takes_options_that_switch_something_off(tfdv_interpreter):
    """Some flags of Beam are on unless another flag is given."""
    beam = {"runner": "DataflowRunner", "workers": 1, "folder": None}
    beam["options"] = {"use_public_ips": False, "save_main_session": False, "streaming": True, "num_workers": 3}
    code = (
        f"import sys; sys.path.insert(0, {str(JOB.parent)!r})\n"
        "import json, tfdv_job\n"
        "from apache_beam.options.pipeline_options import PipelineOptions\n"
        f"options = PipelineOptions.from_dictionary(tfdv_job.beam_options({beam!r}))\n"
        "print(json.dumps(options.get_all_options(drop_default=True)))"
    )
    told = subprocess.run([str(tfdv_interpreter), "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(told.splitlines()[-1]) == {**beam["options"], "runner": "DataflowRunner"}


@pytest.fixture
def stub_tfdv(monkeypatch):
    """Import the job's module where TFDV is not installed, for what needs none of it."""
    import importlib.util
    import sys
    from types import ModuleType

    names = (
        "tensorflow_data_validation",
        "tensorflow_data_validation.statistics",
        "tensorflow_data_validation.statistics.stats_impl",
        "tensorflow_metadata",
        "tensorflow_metadata.proto",
        "tensorflow_metadata.proto.v0",
    )
    for name in names:
        module = ModuleType(name)
        module.generate_statistics_in_memory = None
        module.anomalies_pb2 = module.schema_pb2 = module.statistics_pb2 = None
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("tfdv_job_of_tests", JOB)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"runner": "FlinkRunner"}, "folder must name a place that the workers of the FlinkRunner reach"),
        ({"runner": "in_memory", "workers": 2}, "workers is for the DirectRunner"),
        ({"runner": "FastRunner"}, "DirectRunner"),
        ({"runner": "DirectRunner", "options": {"s3_secret_access_key": "x"}}, "looks like a credential"),
        ({"runner": "DirectRunner", "options": {"flink_master": "http://me:x@host"}}, "looks like a credential"),
        ({"runner": "DirectRunner", "folder": "hdfs://me:x@host/a"}, "names a user or a password"),
    ],
)
def test_settings_that_cannot_work_are_refused(section, words):
    with pytest.raises(ValidationError, match=words):
        ValidateSettings.model_validate({"beam": section})
