"""The quota and the limits of a container hold what they are said to hold, and what the pages show as settings."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipelines.cluster import compile_pipeline
from pipelines.cluster_settings import TASKS, cores, size_bytes
from pipelines.settings import CONFIGS, Settings
from tests.infra.manifests import OVERLAYS, by_name, containers, of_kind, render, render_own, workloads

DOCS = Path(__file__).resolve().parents[2] / "docs"
NUMBER = {"cpu": cores, "memory": size_bytes}
# A step's setting and the key of a container's limits that the quota counts, for each bound.
BOUNDS = (("requests", "", "defaultRequest"), ("limits", "_limit", "default"))

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def _example(page, words):
    """Return the one YAML block of a page that holds the words."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if words in block]
    return yaml.safe_load(found)


def _settings(example=None):
    return Settings.model_validate(yaml.safe_load((CONFIGS / "demo.yaml").read_text()) | (example or {}))


@dataclass(frozen=True)
class Bounds:
    """What an overlay allows: the quota of all pods, and what its ready limits are for one container."""

    hard: dict
    container: dict


def _bounds(objects):
    (container,) = by_name(objects, "LimitRange", "vitalfuse")["spec"]["limits"]
    return Bounds(by_name(objects, "ResourceQuota", "vitalfuse")["spec"]["hard"], container)


def _at_a_time(settings):
    """Return the steps that run beside each other, as often as they do; the others run alone, and ask for less."""
    folds = min(settings.cluster.parallelism, len(settings.models))
    shards = min(settings.cluster.shard_parallelism, settings.shards)
    together = [["train"] + ["cross_validate"] * folds, *([step] for step in TASKS)]
    return together if settings.shards == 1 else [*together, ["ingest_shard"] * shards, ["preprocess_shard"] * shards]


def _needs(objects, settings, bound, suffix, ready, resource):
    """Return what the servers, a served model and the larger of a run and a TrainJob ask for.

    Each step has a helper of Argo's beside it, and the driver of another at the same time, which is a pod of two.
    """
    number, helper = NUMBER[resource], _bounds(objects).container
    scalers = _scalers(objects)
    servers = sum(
        scalers.get(name, 1) * number(container["resources"][bound][resource])
        for name, template in workloads(objects)
        for container in containers(template)
    )
    help_of_one = number(helper[ready][resource])

    def of_step(step):
        return number(getattr(settings.cluster.resources(step), f"{resource}{suffix}"))

    run = max(sum(map(of_step, steps)) + 3 * len(steps) * help_of_one for steps in _at_a_time(settings))
    served = settings.deploy.max_replicas * (number(getattr(settings.deploy, f"{resource}{suffix}")) + help_of_one)
    return servers + served + max(run, settings.train_job.nodes * of_step("train"))


def _scalers(objects):
    return {
        item["spec"]["scaleTargetRef"]["name"]: item["spec"]["maxReplicas"]
        for item in of_kind(objects, "HorizontalPodAutoscaler")
    }


def _assert_held(objects, settings):
    bounds = _bounds(objects)
    for bound, suffix, ready in BOUNDS:
        for resource, number in NUMBER.items():
            needed = _needs(objects, settings, bound, suffix, ready, resource)
            assert needed <= number(bounds.hard[f"{bound}.{resource}"]), f"{bound}.{resource}: {needed}"
    for step in TASKS:
        for resource, number in NUMBER.items():
            limit = getattr(settings.cluster.resources(step), f"{resource}_limit")
            assert number(limit) <= number(bounds.container["max"][resource]), f"{step}: {resource} {limit} is refused"
    scalers = _scalers(objects)
    pods = 2 * max(map(len, _at_a_time(settings))) + settings.deploy.max_replicas
    assert pods + sum(scalers.get(name, 1) for name, _ in workloads(objects)) <= int(bounds.hard["pods"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_quota_holds_the_servers_and_a_run(overlay):
    """The pods of the overlay and of a served model; train, and as many cross-validations as run at a time."""
    settings, objects = _settings(), render(overlay)
    _assert_held(objects, settings)
    gpus = int(_bounds(objects).hard["requests.nvidia.com/gpu"])
    assert settings.train_job.nodes <= gpus, "a pod of a TrainJob may ask for one"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_page_names_what_holds_ten_million_patients(overlay):
    """The ready limits refuse the settings that the page shows; with the patches that it shows they are held."""
    settings = _settings(_example("scale.md", "shards: 100"))
    with pytest.raises(AssertionError):
        _assert_held(render(overlay), settings)
    patches = _example("scale.md", "kind: LimitRange")["patches"]
    _assert_held(render_own(overlay, patches=patches), settings)
    for number in range(len(patches)):
        left = patches[:number] + patches[number + 1 :]
        with pytest.raises(AssertionError):
            _assert_held(render_own(overlay, patches=left), settings)


def _volumes(settings, folder):
    """Return the sizes of the volumes that the pods of a run get, in bytes, from its compiled tasks."""
    compile_pipeline(folder / "pipeline.yaml", settings.cluster, shards=settings.shards)
    pipeline, platform = yaml.safe_load_all((folder / "pipeline.yaml").read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    def of_tasks(dag):
        found = []
        for task in dag["tasks"].values():
            component = pipeline["components"][task["componentRef"]["name"]]
            volumes = executors.get(component.get("executorLabel"), {}).get("genericEphemeralVolume", [])
            one = of_tasks(component["dag"]) if "dag" in component else [size_bytes(item["size"]) for item in volumes]
            found += one * _times(task)
        return found

    def _times(task):
        items = task.get("parameterIterator", {}).get("items")
        if items is None:
            return 1
        return len(json.loads(items["raw"])) if "raw" in items else len(settings.models)

    return of_tasks(pipeline["root"]["dag"])


def _claims(objects):
    """Return the sizes of the volumes of the stores, in bytes."""
    return [
        size_bytes(claim["spec"]["resources"]["requests"]["storage"])
        for item in of_kind(objects, "StatefulSet")
        for claim in item["spec"]["volumeClaimTemplates"]
    ]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_quota_holds_the_volumes_of_a_run(overlay, tmp_path):
    """All of them: Argo keeps a finished pod, and so its volume, until the run's workflow is removed."""
    objects = render(overlay)
    hard, stores = _bounds(objects).hard, _claims(objects)
    settings = _settings(_example("cluster.md", "scratch: {"))
    volumes = _volumes(settings, tmp_path)
    assert sum(stores) + sum(volumes) <= size_bytes(hard["requests.storage"])
    assert len(stores) + 2 * len(volumes) <= int(hard["persistentvolumeclaims"]), "a second run within the day"
    text = (DOCS / "cluster.md").read_text()
    assert f"{len(volumes)} volumes" in text
    # With podGC, those of the pods that run.
    larger = size_bytes(re.search(r"(\d+Gi) a pod", text)[1])
    together = max(map(len, _at_a_time(settings)))
    assert larger > max(volumes)
    assert sum(stores) + together * larger <= size_bytes(hard["requests.storage"])


def test_the_page_says_how_many_volumes_ten_million_patients_take(tmp_path):
    example = _example("scale.md", "shards: 100")
    example["cluster"]["scratch"] = {"size": "100Gi"}
    volumes = _volumes(_settings(example), tmp_path)
    assert f"{len(volumes)} volumes" in (DOCS / "scale.md").read_text()


def test_the_page_shows_defaults_that_argo_reads():
    spec = yaml.safe_load(_example("cluster.md", "workflowDefaults")["data"]["workflowDefaults"])["spec"]
    assert spec["podGC"] == {"strategy": "OnPodSuccess"}
    assert yaml.safe_load(spec["podSpecPatch"])["securityContext"]["fsGroup"] == 10001
