"""What the MLflow server refuses with the settings of infra/kubernetes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import requests

from tests.integration import servers

pytestmark = pytest.mark.slow
SEARCH = "/api/2.0/mlflow/experiments/search"


def _ask(stack, user, **headers):
    return requests.post(f"{stack.mlflow.uri}{SEARCH}", json={"max_results": 1}, auth=user, headers=headers, timeout=60)


def test_nobody_gets_in_without_a_password(stack):
    assert _ask(stack, None).status_code == 401
    assert _ask(stack, (stack.mlflow.admin[0], "wrong")).status_code == 401
    assert _ask(stack, stack.mlflow.admin).status_code == 200


def test_a_name_that_is_not_its_own_is_refused(stack):
    """A page of another site, whose name was made to point here."""
    assert _ask(stack, stack.mlflow.admin, Host="mlflow:5000").status_code == 200
    assert _ask(stack, stack.mlflow.admin, Host="evil.example.org").status_code == 403


def test_changes_from_pages_of_other_sites_are_refused(stack):
    answer = _ask(stack, stack.mlflow.admin, Origin="https://evil.example.org")
    assert answer.status_code == 403
    assert _ask(stack, stack.mlflow.admin, Origin=stack.mlflow.uri).headers["X-Frame-Options"] == "SAMEORIGIN"


def test_a_user_sees_what_others_made_and_cannot_change_it(stack, monkeypatch):
    import mlflow

    for name, value in stack.mlflow.client_environment(*stack.mlflow.admin).items():
        monkeypatch.setenv(name, value)
    client = mlflow.MlflowClient(tracking_uri=stack.mlflow.uri)
    experiment = client.create_experiment("the administrator's")
    stack.mlflow.create_user("reader", "a-long-enough-password")
    for name, value in stack.mlflow.client_environment("reader", "a-long-enough-password").items():
        monkeypatch.setenv(name, value)
    assert client.get_experiment(experiment).name == "the administrator's"
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"403|[Pp]ermission denied|PERMISSION_DENIED"):
        client.delete_experiment(experiment)


def test_a_user_gets_a_new_password(stack):
    stack.mlflow.create_user("forgetful", "the-first-password")
    assert _ask(stack, ("forgetful", "the-first-password")).status_code == 200
    stack.mlflow.create_user("forgetful", "the-second-password")
    assert _ask(stack, ("forgetful", "the-second-password")).status_code == 200
    refused = subprocess.run(
        [sys.executable, servers.CREATE_USER, "forgetful"],
        input="short",
        env=stack.mlflow.environment,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("MLflow refused: ")
    assert "Traceback" not in refused.stderr
