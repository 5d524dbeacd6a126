"""Options that several commands share. Nothing heavy is imported here."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data_schemas.errors import InputError

if TYPE_CHECKING:
    from pipelines.kfp_api import KfpApi

TOKEN_VARIABLES = ("KF_PIPELINES_TOKEN", "KFP_TOKEN")

config_option = click.option(
    "--config",
    default="demo",
    show_default=True,
    metavar="NAME|FILE",
    help="A ready settings file by name (see `vitalfuse configs`), or the path of your own.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Set one setting; may be given several times. Example: --set preprocess.folds=10",
)
tracking_option = click.option(
    "--tracking-uri",
    envvar="MLFLOW_TRACKING_URI",
    metavar="URI",
    help="MLflow server as this machine sees it, to keep the MLflow run in step. [env: MLFLOW_TRACKING_URI]",
)
_CONNECTION_OPTIONS = [
    click.option(
        "--host",
        envvar="KF_PIPELINES_ENDPOINT",
        metavar="URL",
        help="Address of the KFP server, such as https://kubeflow.example.org/pipeline. [env: KF_PIPELINES_ENDPOINT]",
    ),
    click.option(
        "--namespace",
        envvar="KF_PIPELINES_NAMESPACE",
        help="Kubernetes namespace, where the server has several users. [env: KF_PIPELINES_NAMESPACE]",
    ),
    click.option(
        "--token",
        metavar="TOKEN",
        help="Bearer token. Others on this machine can see it; better is [env: KF_PIPELINES_TOKEN or KFP_TOKEN].",
    ),
    click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File with the token, such as one that Kubernetes keeps fresh: it is read again for each call.",
    ),
    click.option(
        "--ca-cert",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File with the certificate of the authority to trust (PEM).",
    ),
    click.option(
        "--ui-host",
        envvar="KF_PIPELINES_UI_ENDPOINT",
        metavar="URL",
        help="Address of the KFP UI for links, where it is another. [env: KF_PIPELINES_UI_ENDPOINT]",
    ),
    click.option(
        "--answer-timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for an answer of the server.",
    ),
]

_MANIFEST_OPTIONS = [
    click.option(
        "--output", type=click.Path(path_type=Path, dir_okay=False), help="YAML file to write; else it is printed."
    ),
    click.option("--apply", "applied", is_flag=True, help="Apply it with kubectl."),
    click.option("--dry-run", is_flag=True, help="With --apply: let the cluster check it, and change nothing."),
    click.option("--context", help="With --apply: context of the kubeconfig."),
]


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Tell in one line that a file can't be written.

    Args:
        output: The file of the option ``--output``.

    Raises:
        InputError: It can't be.
    """
    try:
        yield
    except OSError as error:
        # Where the folder to make is a file, the system speaks of a file that exists.
        in_the_way = next((folder for folder in output.parents if folder.is_file()), None)
        cause = f"{in_the_way} is a file" if in_the_way else error.strerror or error
        raise InputError(
            f"can't be written ({cause})",
            file=str(output),
            field="--output",
            remedy="Name a file in a folder that you may write to",
        ) from error


def manifest_command(command: Callable[..., tuple[str, str]]) -> Callable[..., None]:
    """Give a command that renders a manifest the options to print, write or apply it.

    Args:
        command: The command's function; returns the manifest, and what is in it in a few words.

    Returns:
        The function with the options.
    """

    @functools.wraps(command)
    def call(output: Path | None, applied: bool, dry_run: bool, context: str | None, **arguments: Any) -> None:
        if (dry_run or context) and not applied:
            raise InputError("needs --apply", field="--dry-run" if dry_run else "--context")
        manifest, told = command(**arguments)
        if output is not None:
            from components.common.files import atomic_file

            with writing(output), atomic_file(output) as path:
                path.write_text(manifest, encoding="utf-8")
            click.echo(f"wrote {output}: {told}", err=True)
        elif not applied:
            click.echo(manifest, nl=False)
        if applied:
            from pipelines.deploy import apply

            click.echo(apply(manifest, context=context, dry_run=dry_run))

    for option in reversed(_MANIFEST_OPTIONS):
        call = option(call)
    return call


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name a KFP server, and pass it the server as its first argument.

    Args:
        command: The command's function.

    Returns:
        The function with the options.
    """

    @functools.wraps(command)
    def call(
        host: str | None,
        namespace: str | None,
        token: str | None,
        token_file: Path | None,
        ca_cert: Path | None,
        ui_host: str | None,
        answer_timeout: float,
        **arguments: Any,
    ) -> Any:
        # Kubernetes writes a new token into the file about once an hour.
        read_token = functools.partial(_token, None, token_file) if token_file is not None else None
        given = _token(token, token_file)
        api = _connect(host, namespace, given, ca_cert, ui_host, answer_timeout, read_token)
        return command(api, **arguments)

    for option in reversed(_CONNECTION_OPTIONS):
        call = option(call)
    return call


def _connect(
    host: str | None,
    namespace: str | None,
    token: str | None,
    ca_cert: Path | None,
    ui_host: str | None,
    answer_timeout: float,
    read_token: Callable[[], str | None] | None,
) -> KfpApi:
    from pipelines.kfp_api import Connection, KfpApi

    if not host:
        raise InputError(
            "no KFP server is named", field="--host", remedy="Give --host URL, or set KF_PIPELINES_ENDPOINT"
        )
    api = KfpApi(Connection(host, namespace, token, ca_cert, ui_host, answer_timeout, read_token))
    api.check()
    return api


def _token(token: str | None, token_file: Path | None) -> str | None:
    if token_file is not None:
        try:
            token = token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError("can't be read", file=str(token_file), field="--token-file") from error
    for variable in TOKEN_VARIABLES:
        token = token or os.environ.get(variable)
    token = token.strip() if token else None
    if token and not re.fullmatch(r"[!-~]+", token):
        raise InputError("the token holds blanks or other characters that no token has", field="--token")
    return token or None
