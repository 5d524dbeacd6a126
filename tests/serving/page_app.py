"""A server with the page and the one endpoint that it calls: a real model behind it, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import Body, FastAPI, Request
from fastapi.responses import JSONResponse, Response

from serving.page_routes import page_model, page_router
from serving.patients import InvalidRequest, parse_patients
from serving.predictor import Predictor


def page_app(predictor: Predictor, token: str | None = None) -> FastAPI:
    app = FastAPI()

    def guard(request: Request) -> Response | None:
        if token is None or request.headers.get("Authorization") == f"Bearer {token}":
            return None
        return JSONResponse({"error": "a bearer token is needed"}, 401)

    served = page_model(predictor.info.name, predictor.info.version, predictor.contract)
    app.include_router(page_router(lambda: served, guard))

    @app.post("/invocations")
    def invocations(request: Request, content: Any = Body()) -> Response:  # noqa: B008 - FastAPI's way
        refused = guard(request)
        if refused is not None:
            return refused
        try:
            answers = predictor.diagnose(parse_patients(content["instances"], place="instances"))
        except InvalidRequest as error:
            faults = [{"field": f.field, "problem": f.problem, "remedy": f.remedy} for f in error.faults]
            return JSONResponse({"error": str(error), "faults": faults}, 400 if error.malformed else 422)
        return JSONResponse({"predictions": [answer.model_dump() for answer in answers]})

    return app


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an app on a free port of the loopback; gives its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the test server did not start")
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
