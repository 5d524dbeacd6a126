"""The settings of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from components.common.settings import Section
from serving.log_settings import PredictionLogSettings

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServeSettings(Section):
    """What `vitalfuse serve` listens on, which version it serves, and what it bears.

    One server serves one registered model. The token itself is never a setting: it comes from the environment or from
    a file.
    """

    alias: str = Field(default="champion", min_length=1, description="Alias of the registered model that is followed")
    version: str | None = Field(
        default=None, pattern=r"^[0-9]+$", description="One version for good, in place of the alias"
    )
    folder: Path | None = Field(
        default=None, description="A model folder, in place of the registry; nothing is followed then"
    )
    cache: Path | None = Field(
        default=None, description="Folder for downloaded versions; `serve` in the workspace by default"
    )
    poll_seconds: _Seconds = Field(default=5.0, description="How often the registry is asked for the alias")
    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="Port to listen on; 0 for any free one")
    workers: int = Field(
        default=1, ge=1, le=64, description="Processes that answer on the port; each loads the model for itself"
    )
    tls_certificate: Path | None = Field(default=None, description="Certificate chain (PEM), to serve HTTPS")
    tls_key: Path | None = Field(default=None, description="Its private key (PEM)")
    token_environment: str = Field(
        default="VITALFUSE_SERVE_TOKEN",
        min_length=1,
        description="Environment variable with the bearer token; without a token anybody may ask",
    )
    token_file: Path | None = Field(default=None, description="File with the bearer token, in place of the variable")
    rate_limit: str | None = Field(
        default="300/second", description='Requests of one client address, such as "100/second"; null for no limit'
    )
    trusted_proxies: str = Field(
        default="127.0.0.1", description="Addresses whose X-Forwarded-For is believed, separated by commas"
    )
    max_request_mb: float = Field(default=32.0, gt=0, le=1024, description="Largest request, in MB")
    max_buffered_mb: float = Field(
        default=512.0,
        gt=0,
        description="All requests that are being read or answered, in MB, of all workers together; beyond it, 503",
    )
    max_batch: int = Field(default=32, ge=1, description="Patients that go through the model together, at most")
    max_delay_ms: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="How long the first patient waits for `max_batch` patients while the model is idle; while it is "
        "busy, they gather by themselves",
    )
    at_once_mb: float = Field(
        default=2.0,
        ge=0,
        description="Batches up to this size, in MB, are computed where requests are received, as a hand-over to a "
        "thread costs more; larger ones in a thread, so that the worker answers meanwhile",
    )
    max_queue: int = Field(
        default=256, ge=1, description="Patients that may wait for the model, in each worker; beyond it, 503"
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Batches that a worker computes at a time; Python lets one thread run at a time",
    )
    max_patients: int = Field(default=64, ge=1, description="Patients in one request")
    request_seconds: _Seconds = Field(default=30.0, description="Longest time to answer; beyond it, 504")
    body_seconds: _Seconds = Field(default=30.0, description="Longest time to receive a request; beyond it, 408")
    shutdown_seconds: int = Field(
        default=30, ge=1, description="How long accepted requests may take to end after SIGTERM or Ctrl-C"
    )
    log: PredictionLogSettings = PredictionLogSettings()

    @field_validator("rate_limit")
    @classmethod
    def _rate_is_readable(cls, value: str | None) -> str | None:
        if value is not None:
            from limits import parse

            parse(value)
        return value
