"""Every protocol gives the predictor's own answer, and names what is wrong with a request."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from serving.patients import parse_patients
from serving.predictor import Predictor
from serving.table import patients_of
from tests.serving.server.conftest import NAME, patient


@pytest.fixture
def client(start):
    return start()


@pytest.fixture(scope="module")
def expected(model_folder):
    predictor = Predictor.load(model_folder("series", "image", "text"), name=NAME)
    others = parse_patients([patient(), patient(note=None, image=None)])
    return [answer.model_dump() for answer in predictor.diagnose(others)]


BOTH = [patient(), patient(note=None, image=None)]


def infer(client, texts, **changes):
    tensor = {"name": "patients", "datatype": "BYTES", "shape": [len(texts)], "data": texts} | changes
    return client.post(f"/v2/models/{NAME}/infer", json={"id": "7", "inputs": [tensor]})


def test_plain_json(client, expected):
    answer = client.post("/v1/diagnose", json={"patients": BOTH})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"diagnoses": expected}


def test_open_inference_protocol(client, expected):
    answer = infer(client, [json.dumps(one) for one in BOTH]).json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert (answer["model_name"], answer["id"]) == (NAME, "7")
    assert [json.loads(text) for text in outputs["answer"]["data"]] == expected
    assert outputs["diagnosis"]["data"] == [item["diagnosis"] for item in expected]
    assert outputs["probabilities"]["shape"] == [2, 3]
    assert outputs["probabilities"]["data"] == [value for item in expected for value in item["probabilities"].values()]
    assert outputs["probabilities"]["parameters"]["classes"] == ",".join(expected[0]["probabilities"])
    assert outputs["attention"]["data"] == [value for item in expected for value in item["attention"].values()]


def test_open_inference_protocol_by_kserves_own_client(client, expected):
    import numpy as np
    from kserve import InferInput, InferRequest, InferResponse

    tensor = InferInput("patients", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([json.dumps(one).encode() for one in BOTH], dtype=object), binary_data=True)
    body, json_size = InferRequest(NAME, [tensor]).to_rest()
    headers = {"Inference-Header-Content-Length": str(json_size), "Content-Type": "application/octet-stream"}
    answer = client.post(f"/v2/models/{NAME}/infer", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    received = InferResponse.from_rest(answer.json())
    assert received.outputs[0].data == [item["diagnosis"] for item in expected]


def test_only_the_outputs_that_were_asked_for(client):
    tensor = {"name": "patients", "datatype": "BYTES", "shape": [1], "data": [json.dumps(patient())]}
    request = {"inputs": [tensor], "outputs": [{"name": "diagnosis"}]}
    answer = client.post(f"/v2/models/{NAME}/infer", json=request).json()
    assert [output["name"] for output in answer["outputs"]] == ["diagnosis"]
    request["outputs"] = [{"name": "logits"}]
    answer = client.post(f"/v2/models/{NAME}/infer", json=request)
    assert answer.status_code == 400
    assert "probabilities" in answer.json()["error"]


def test_metadata_and_health(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["name"] == "vitalfuse"
    assert client.get("/v2/models").json() == {"models": [NAME]}
    assert client.get(f"/v2/models/{NAME}/ready").json() == {"name": NAME, "ready": True}
    metadata = client.get(f"/v2/models/{NAME}").json()
    assert metadata["inputs"] == [{"name": "patients", "datatype": "BYTES", "shape": [-1]}]
    assert {output["name"]: output["shape"] for output in metadata["outputs"]} == {
        "diagnosis": [-1],
        "probabilities": [-1, 3],
        "attention": [-1, 3],
        "answer": [-1],
    }


@pytest.mark.parametrize("path", [f"/v2/models/{NAME}/versions/9", "/v2/models/other", "/v2/models/other/ready"])
def test_only_the_model_and_version_that_are_served(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert "error" in answer.json()


@pytest.mark.parametrize("path", [f"/v2/repository/models/{NAME}/unload", f"/v2/repository/models/{NAME}/load"])
def test_nobody_unloads_the_model(client, path):
    assert client.post(path).status_code == 404


@pytest.mark.parametrize("form", ["dataframe_records", "dataframe_split", "inputs", "instances"])
def test_mlflow(client, expected, form):
    frame = pd.DataFrame(BOTH).astype(object).where(lambda table: table.notna(), None)
    rows = {
        "dataframe_records": lambda: frame.to_dict("records"),
        "dataframe_split": lambda: frame.to_dict("split", index=False),
        "inputs": lambda: BOTH,
        "instances": lambda: BOTH,
    }[form]()
    answer = client.post("/invocations", json={form: rows})
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == expected


def test_mlflow_takes_what_the_registered_model_takes(client, model_folder):
    from serving.package import input_example

    example = input_example(model_folder("series", "image", "text"))
    predictor = Predictor.load(model_folder("series", "image", "text"), name=NAME)
    answer = client.post("/invocations", content=json.dumps({"dataframe_split": example.to_dict("split")}))
    assert answer.json()["predictions"] == [item.model_dump() for item in predictor.diagnose(patients_of(example))]


FAULTS = [
    (
        {"observations": [{"channel": "heart_rate", "time": "2022-06-01T10:00:00", "value": 80}]},
        400,
        "observations[0].time",
    ),
    ({"observations": [{"channel": "heart_rate", "time": "2022-06-01T10:00:00Z", "value": None}]}, 400, "[0].value"),
    ({"observations": [{"channel": "hart_rate", "time": "2022-06-01T10:00:00Z", "value": 80}]}, 422, "[0].channel"),
    (
        {"observations": [{"channel": "heart_rate", "time": "2022-06-01T10:00:00Z", "value": 80, "unit": "mm[Hg]"}]},
        422,
        "observations[0].unit",
    ),
    ({"observations": {}}, 400, "observations"),
    ({"image": "bm90IGFuIGltYWdl"}, 422, "image"),
    ({"image": [[0.1, 7.0], [0.3, 0.4]]}, 422, "image"),
    ({"image": [[0.1], [0.3, 0.4]]}, None, "image"),
    ({"note": 7}, 400, "note"),
    ({"age": -3}, 400, "age"),
    ({"smoker": True}, 400, "smoker"),
]


@pytest.mark.parametrize(("change", "status", "field"), FAULTS, ids=[item[2] for item in FAULTS])
@pytest.mark.parametrize("way", ["plain", "protocol", "mlflow"])
def test_faults_name_the_patient_and_the_field(client, change, status, field, way):
    both = [patient(), patient(**change)]
    if way == "plain":
        answer = client.post("/v1/diagnose", json={"patients": both})
    elif way == "protocol":
        answer = infer(client, [json.dumps(one) for one in both])
    else:
        answer = client.post("/invocations", json={"inputs": both})
    assert answer.status_code in ({400, 422} if status is None else {status}), answer.text
    content = answer.json()
    assert ("inputs[1]" if way == "mlflow" else "patients[1]") in content["error"]
    assert field in content["error"]
    assert all(fault["remedy"] for fault in content["faults"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"patients": null}',
        b'{"patients": []}',
        b'{"patients": [null]}',
        b'{"patients": [{"age": NaN}]}',
        b'{"patients": [{"age": Infinity}]}',
        b'{"patients": [{"note": "\xff"}]}',
        b'{"patients": [{"note": "\\ud800"}]}',
        b'{"patients": [{"age": 1e999}]}',
        b'{"patients": [{"observations": [{"value": 1e400}]}]}',
        b"[" * 100_000,
        b'{"inputs": [{"name": "patients"}]}',
        b'{"inputs": [{"name": "patients", "datatype": "FP32", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "patients", "datatype": "BYTES", "shape": [2], "data": ["{}"]}]}',
        b'{"inputs": [{"name": "patients", "datatype": "BYTES", "shape": [1], "data": [{}]}]}',
        b'{"inputs": [{"name": "patients", "datatype": "BYTES", "shape": [1], "data": ["{}, {}"]}]}',
        b'{"inputs": [{"name": "patients", "datatype": "BYTES", "shape": [1], "data": [""]}]}',
        b'{"inputs": [{"name": "patients", "datatype": "BYTES", "shape": [-1], "data": []}]}',
        b'{"inputs": 7}',
        b'{"dataframe_split": {"columns": ["age"], "data": [[1, 2]]}}',
        b'{"dataframe_records": [7]}',
        b'{"dataframe_records": {"a": 1}}',
        b'{"inputs": [[1, 2], [3]]}',
        b'{"inputs": "text"}',
        b'{"messages": [{"role": "user", "content": "hello"}]}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/diagnose", f"/v2/models/{NAME}/infer", "/invocations"])
def test_what_is_no_request_is_told_so(client, path, body):
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/csv", b"age,note\n61,Fever\n"),
        ("text/csv", b"\xff\xfe"),
        ("application/x-parquet", b"PAR1nonsense"),
        ("application/json; charset=latin-1", b"{}"),
        ("application/xml", b"<a/>"),
        ("nonsense", b"{}"),
    ],
)
def test_mlflow_content_types(client, kind, body):
    answer = client.post("/invocations", content=body, headers={"Content-Type": kind})
    # MLflow reads no nested columns from CSV.
    assert answer.status_code in (400, 415), answer.text


@pytest.mark.parametrize("length", ["0", "9", "-1", "99999", "x"])
def test_binary_requests_that_are_cut(client, length):
    headers = {"Inference-Header-Content-Length": length, "Content-Type": "application/octet-stream"}
    answer = client.post(f"/v2/models/{NAME}/infer", content=b'{"inputs": []}\x05\x00', headers=headers)
    assert answer.status_code == 400, answer.text


def test_openapi_page(client):
    document = client.get("/openapi.json").json()
    assert {"/v1/diagnose", "/v2/models/{model_name}/infer", "/invocations"} <= set(document["paths"])
    body = document["paths"]["/v1/diagnose"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/DiagnoseRequest"}
    assert "observations" in document["components"]["schemas"]["Patient"]["properties"]
    assert client.get("/docs").status_code == 200


def test_no_route_stands_in_the_way_of_another(client):
    paths = client.get("/openapi.json").json()["paths"]
    # Routes are tried one after the other: what is asked most comes before the protocols' many.
    assert list(paths)[:2] == ["/v1/diagnose", "/v1/status"]
    for path, operations in paths.items():
        address = path.format(model_name=NAME, model_version="1")
        for method in operations:
            client.request(method, address)
            counted = f'vitalfuse_requests_total{{endpoint="{path}",status='
            assert counted in client.get("/metrics").text, f"{method} {address} is answered by another route"


def test_status_tells_the_contract(client):
    status = client.get("/v1/status").json()
    assert status["name"] == NAME
    assert status["contract"]["classes"] == ["healthy", "copd", "diabetes"]
    assert len(status["digest"]) == 64


def test_metrics(client):
    client.post("/v1/diagnose", json={"patients": BOTH})
    text = client.get("/metrics").text
    assert 'vitalfuse_requests_total{endpoint="/v1/diagnose",status="200"} 1.0' in text
    assert 'vitalfuse_patients_total{outcome="diagnosed"} 2.0' in text


def test_the_server_imports_nothing_that_its_image_leaves_out():
    code = (
        "import json, sys\n"
        "import serving.server.run, serving.server.app, serving.server.hooks, mlflow\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    left_out = {"tensorflow", "keras", "kfp", "sklearn", "gensim", "matplotlib", "flask", "sympy"}
    assert left_out & set(json.loads(completed.stdout)) == set()
