"""Routes of the page at ``/``: its files, with headers that let it load and call nothing but this server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field

from components.preprocess.settings import PreprocessSettings

PAGE = Path(__file__).with_name("page")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json"}


class Window(BaseModel):
    """The part of a patient's readings that the model reads."""

    seconds: float = Field(description="Its length")
    anchor: Literal["first", "last"] = Field(description="Whether it begins with the first reading or ends by the last")


class PageModel(BaseModel):
    """What the page says of the model that is served."""

    name: str
    version: str | None = Field(description="Version in the registry; null where it was loaded from elsewhere")
    modalities: list[str]
    window: Window | None = Field(description="Null where the model reads no series")
    intended_use: str


def page_model(name: str, version: str | None, contract: Mapping[str, Any]) -> PageModel:
    """Bring a model's contract down to what the page shows.

    Args:
        name: Name of the registered model.
        version: Its version; None where it has none.
        contract: Content of contract.json.

    Returns:
        What the page shows.
    """
    settings = PreprocessSettings.model_validate(contract["preparation"]["settings"])
    seconds = settings.step_seconds * contract["steps"]
    return PageModel(
        name=name,
        version=version,
        modalities=list(contract["modalities"]),
        window=Window(seconds=seconds, anchor=settings.anchor) if "series" in contract["modalities"] else None,
        intended_use=contract["intended_use"],
    )


def page_router(current: Callable[[], PageModel | None]) -> APIRouter:
    """Return the routes ``/``, its files, and ``/page/model``.

    Args:
        current: Says which model is served now; None while there is none. Whoever asks for a token asks for it under
            ``/page/``; the files themselves tell nothing.

    Returns:
        The routes.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/page/model")
    def model() -> Response:
        served = current()
        if served is None:
            return JSONResponse({"error": "no model is ready yet"}, status_code=503, headers={"Retry-After": "1"})
        return JSONResponse(served.model_dump(), headers={"Cache-Control": "no-store"})

    for path in sorted(PAGE.rglob("*")):
        if path.is_file() and path.suffix in _KINDS:
            _add_file(router, path)
    return router


def _add_file(router: APIRouter, path: Path) -> None:
    """Add the route of one file: no path of a request is ever looked up on the disk."""
    relative = path.relative_to(PAGE).as_posix()

    def file() -> Response:
        return FileResponse(path, media_type=_KINDS[path.suffix], headers=HEADERS)

    router.add_api_route("/" if relative == "index.html" else f"/{relative}", file, methods=["GET", "HEAD"])
