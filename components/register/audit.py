"""The record of promotions: append-only, one entry after the other, each bound to the one before.

It lies in MLflow itself, as the parameters of one run in an experiment of its own. MLflow takes a parameter once and
never changes it: the database's primary key on run and name decides which of two writers of entry 7 was first, and the
other one is told. So one write is at once the claim, the record and the decision; there is no lock that a crash could
leave behind. The aliases follow the record, and are set after it.

Each entry holds the SHA-256 of the one before. Whoever changes the database by hand has to rewrite every later entry,
and then the last digest differs from the one that was printed, and stands in the version's tag.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.common.mlflow_client import create_experiment, create_run
from data_schemas.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment
    from mlflow.exceptions import MlflowException

EXPERIMENT_PREFIX = "vitalfuse-promotions/"
LEDGER_TAG = "vitalfuse.ledger_run"
MODEL_TAG = "vitalfuse.promotions_of"
FIRST_HASH = "0" * 64
# MLflow cuts longer values without a word.
_VALUE_LIMIT = 6000
_ATTEMPTS = 8
# MLflow looks whether a tag or alias is there, then inserts it: two processes at once may both insert.
_CLASHES = ("IntegrityError", "UniqueViolation")
_SET_TABLES = ("model_version_tags", "registered_model_aliases")

Action = Literal["register", "promote", "rollback", "outside"]
T = TypeVar("T")


class Entry(BaseModel):
    """One entry of the record.

    Attributes:
        number: From 1.
        time: UTC, ISO 8601.
        action: "register" by the pipeline; "promote", "rollback" by a person; "outside": aliases were found moved by
            other means.
        version: The version that it is about; None for "outside".
        alias: The alias that it was given; None where it was given none.
        by: Who decided, as they said.
        reason: Why.
        login: User and machine that ran the command.
        before: Aliases and versions before.
        after: Aliases and versions from now on.
        evidence: What the decision rests on: runs, digests, gates.
        nonce: Random digits, so that no two entries are alike.
        previous: SHA-256 of the entry before.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = Field(ge=1)
    time: str
    action: Action
    version: str | None
    alias: str | None
    by: str
    reason: str
    login: str
    before: dict[str, str]
    after: dict[str, str]
    evidence: dict[str, Any]
    nonce: str
    previous: str

    @property
    def hash(self) -> str:
        """SHA-256 of everything in the entry."""
        return hashlib.sha256(self._canonical().encode()).hexdigest()

    def _canonical(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def to_value(self) -> str:
        """Return the entry as the value of an MLflow parameter."""
        return json.dumps({**self.model_dump(mode="json"), "hash": self.hash}, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class History:
    """The record as read.

    Attributes:
        entries: In order.
        finished: Whether the aliases were set after the last entry.
        problems: Where the record isn't what was written; empty where it is sound.
    """

    entries: list[Entry]
    finished: bool
    problems: list[str]

    @property
    def head(self) -> Entry | None:
        """The last entry."""
        return self.entries[-1] if self.entries else None

    @property
    def head_hash(self) -> str:
        """SHA-256 of the last entry."""
        return self.entries[-1].hash if self.entries else FIRST_HASH

    @property
    def aliases(self) -> dict[str, str]:
        """Aliases as the record has them."""
        return self.entries[-1].after if self.entries else {}

    def registered(self, version: str) -> Entry | None:
        """Return the entry of a version's registration, the last one where a number was used again.

        Args:
            version: The version.
        """
        found = [entry for entry in self.entries if entry.action == "register" and entry.version == version]
        return found[-1] if found else None


class OvertakenError(Exception):
    """Another writer's entry came first."""


@dataclass(frozen=True)
class Ledger:
    """The record of one registered model.

    Attributes:
        client: MLflow client.
        name: Registered model.
        run_id: The run whose parameters are the entries.
    """

    client: MlflowClient
    name: str
    run_id: str

    @classmethod
    def find(cls, client: MlflowClient, name: str) -> Ledger | None:
        """Return the record of a registered model, or None where none was begun.

        Args:
            client: MLflow client.
            name: Registered model.

        Raises:
            InputError: It was deleted, or lost its run.
        """
        experiment = retried(lambda: client.get_experiment_by_name(EXPERIMENT_PREFIX + name))
        return cls._of(client, name, experiment) if experiment else None

    @classmethod
    def _of(cls, client: MlflowClient, name: str, experiment: Experiment) -> Ledger:
        place = f"experiment {experiment.name!r}"
        restore = "Restore it in MLflow; without it nothing tells what was promoted, and when"
        run_id = experiment.tags.get(LEDGER_TAG)
        if experiment.lifecycle_stage != "active":
            raise InputError(f"the record of promotions was deleted: {place}", remedy=restore)
        if not run_id:
            raise InputError(f"{place} names no run as the record of promotions", remedy=restore)
        run = retried(lambda: client.get_run(run_id))
        if run.info.lifecycle_stage != "active" or run.info.experiment_id != experiment.experiment_id:
            raise InputError(f"the record of promotions was deleted: run {run_id} of {place}", remedy=restore)
        return cls(client, name, run_id)

    @classmethod
    def open(cls, client: MlflowClient, name: str) -> Ledger:
        """Return the record of a registered model, begun where there is none.

        The run is made in an experiment with a name of its own, which then takes the record's name. Names are unique
        in MLflow's database: of two that begin the record at once, one fails to rename and takes the other's.

        Args:
            client: MLflow client.
            name: Registered model.

        Returns:
            The record.

        Raises:
            InputError: It was deleted, or lost its run.
        """
        from mlflow.exceptions import MlflowException

        found = cls.find(client, name)
        if found is not None:
            return found
        wanted = EXPERIMENT_PREFIX + name
        begun = f"{wanted} (begun {secrets.token_hex(8)})"
        own = retried(lambda: create_experiment(client, begun)).experiment_id
        run = retried(lambda: create_run(client, own, f"promotions of {name}", {MODEL_TAG: name}))
        retried(lambda: client.set_terminated(run.info.run_id))
        retried(lambda: client.set_experiment_tag(own, LEDGER_TAG, run.info.run_id))
        try:
            retried(lambda: client.rename_experiment(own, wanted))
        except MlflowException:
            found = cls.find(client, name)
            if found is None:
                raise
            if found.run_id == run.info.run_id:
                # It bears the name already: only the answer was lost.
                return found
            with suppress(MlflowException):
                client.delete_experiment(own)
            return found
        return cls(client, name, run.info.run_id)

    def read(self) -> History:
        """Read and check the record.

        Returns:
            Entries up to the first that isn't sound, and what is wrong.
        """
        params = retried(lambda: self.client.get_run(self.run_id)).data.params
        entries: list[Entry] = []
        problems: list[str] = []
        numbers = sorted(int(key) for key in params if key.isdigit())
        for number in numbers:
            try:
                entries.append(_checked(params[_key(number)], number, entries[-1] if entries else None))
            except ValueError as error:
                problems.append(f"entry {number} {error}")
                break
        finished = not entries or _done_key(entries[-1].number) in params
        return History(entries, finished, problems)

    def append(
        self,
        history: History,
        action: Action,
        *,
        version: str | None,
        alias: str | None,
        by: str,
        reason: str,
        before: dict[str, str],
        after: dict[str, str],
        evidence: dict[str, Any],
    ) -> Entry:
        """Append an entry to the record as it was read.

        Args:
            history: The record that the decision rests on.
            action: What is done.
            version: The version it is about.
            alias: The alias that it gets.
            by: Who decided.
            reason: Why.
            before: Aliases before.
            after: Aliases from now on.
            evidence: What it rests on.

        Returns:
            The entry.

        Raises:
            OvertakenError: The record has grown since it was read.
            InputError: The entry is longer than MLflow takes.
        """
        entry = Entry(
            number=len(history.entries) + 1,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            action=action,
            version=version,
            alias=alias,
            by=by,
            reason=reason,
            login=f"{_user()}@{socket.gethostname()}",
            before=before,
            after=after,
            evidence=evidence,
            nonce=secrets.token_hex(8),
            previous=history.head_hash,
        )
        value = entry.to_value()
        if len(value) > _VALUE_LIMIT:
            raise InputError(
                f"the entry has {len(value)} characters, {_VALUE_LIMIT} can be kept",
                field="--reason",
                remedy="Shorten it, and name a document that says the rest",
            )
        self._write_once(_key(entry.number), value)
        return entry

    def mark_finished(self, entry: Entry) -> None:
        """Note that the aliases were set after an entry; several may do so.

        Args:
            entry: The entry.
        """
        with suppress(OvertakenError):
            self._write_once(_done_key(entry.number), datetime.now(UTC).isoformat(timespec="milliseconds"))

    def _write_once(self, key: str, value: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            retried(lambda: self.client.log_param(self.run_id, key, value))
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
        # What stands there decides, not how the write was answered: an answer may be lost on its way.
        kept = retried(lambda: self.client.get_run(self.run_id)).data.params.get(key)
        if kept != value:
            raise OvertakenError(key)


def _key(number: int) -> str:
    return f"{number:06d}"


def _done_key(number: int) -> str:
    return f"{_key(number)}.done"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _checked(value: str, number: int, before: Entry | None) -> Entry:
    """Parse an entry and hold it against its own digest, its place and the entry before."""
    try:
        content = json.loads(value)
        recorded = content.pop("hash")
        entry = Entry.model_validate(content)
    except (ValidationError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError("can't be read") from error
    if entry.hash != recorded:
        raise ValueError("was changed after it was written")
    if entry.number != number or number != (before.number if before else 0) + 1:
        raise ValueError("is not where it was written: entries are missing or moved")
    if entry.previous != (before.hash if before else FIRST_HASH):
        raise ValueError("doesn't follow the entry before it, which was changed or exchanged")
    return entry


def retried(call: Callable[[], T]) -> T:
    """Call MLflow, again where its database was busy.

    Args:
        call: The call; it must be safe to repeat.

    Returns:
        What it returns.
    """
    from mlflow.exceptions import MlflowException

    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except MlflowException as error:
            if not _busy(error) or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.05 * 2**attempt * (0.5 + secrets.randbelow(1000) / 1000))
    raise AssertionError("unreachable")


def _busy(error: MlflowException) -> bool:
    """Whether a repetition may succeed: the database was locked, or another process set the same tag or alias first."""
    text = str(error)
    clash = any(kind in text for kind in _CLASHES) and any(table in text for table in _SET_TABLES)
    return clash or error.error_code == "TEMPORARILY_UNAVAILABLE" or "database is locked" in text
