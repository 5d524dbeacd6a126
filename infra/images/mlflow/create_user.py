#!/usr/bin/env python3
"""Makes a user of this MLflow server who is no administrator: ``create-mlflow-user NAME``.

The password comes on standard input. Runs beside the server, in its environment. A user who is there already gets the
new password.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request

_USERS = "/api/2.0/mlflow/users"


def _call(method: str, path: str, body: dict[str, str]) -> dict[str, str] | None:
    """Call the API of users; return its refusal, or None."""
    login = f"{os.environ['MLFLOW_AUTH_ADMIN_USERNAME']}:{os.environ['MLFLOW_AUTH_ADMIN_PASSWORD']}"
    request = urllib.request.Request(
        f"http://127.0.0.1:{os.environ['MLFLOW_PORT']}{_USERS}/{path}",
        data=json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
        },
        method=method,
    )
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except urllib.error.HTTPError as error:
        answer = error.read().decode(errors="replace")
        return json.loads(answer) if answer.startswith("{") else {"message": f"{error} {answer}"}
    except OSError as error:
        return {"message": f"it does not answer ({error})"}
    return None


def main() -> None:
    """Make the user, or set the password."""
    if len(sys.argv) != 2:
        sys.exit("say create-mlflow-user NAME, with the password on standard input")
    user = {"username": sys.argv[1], "password": sys.stdin.read().strip()}
    refusal = _call("POST", "create", user)
    if refusal and refusal.get("error_code") == "RESOURCE_ALREADY_EXISTS":
        refusal = _call("PATCH", "update-password", user)
    if refusal:
        sys.exit(f"MLflow refused: {refusal.get('message', refusal)}")


if __name__ == "__main__":
    main()
