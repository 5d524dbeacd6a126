"""Promotes registered versions, rolls them back, and tells their history."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from components.register.audit import History, Ledger
from components.register.evidence import version_predictions
from components.register.gates import (
    FAILED,
    GATES_FOLDER,
    GATES_JSON,
    GATES_TAG,
    NOT_EVALUATED,
    Champion,
    Gate,
    non_inferiority_gate,
)
from components.register.integrity import MODEL_DIGEST_TAG, PACKAGE_DIGEST_TAG, verified_version
from components.register.promotion import (
    CHAMPION,
    PREVIOUS,
    Aliases,
    Outcome,
    current_aliases,
    promote,
    roll_back,
    synchronise,
)
from components.register.register import evidence_of
from components.register.settings import GateSettings
from data_schemas.errors import InputError
from pipelines.registry import find_model, find_version, parse_version

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_LONGEST = {"--by": 100, "--reason": 1000}


@dataclass(frozen=True)
class Promotion:
    """What a command did, to be told.

    Attributes:
        model: Registered model.
        version: The version that it was about.
        outcome: Its entry, and what was put right before.
        warnings: What speaks against it.
    """

    model: str
    version: str
    outcome: Outcome
    warnings: list[str] = field(default_factory=list)


def promote_version(
    client: MlflowClient,
    text: str,
    *,
    model: str,
    alias: str,
    by: str,
    reason: str,
    key: bytes | None,
    override_gates: bool = False,
    expected_champion: str | None = None,
) -> Promotion:
    """Verify a version and give it an alias.

    Args:
        client: MLflow client.
        text: The version, as ``parse_version`` reads it.
        model: Registered model where the text names none.
        alias: ``champion`` or ``challenger``.
        by: Who decides.
        reason: Why.
        key: Key of the sealed predictions, to compare with a champion that is newer than the gates.
        override_gates: Promote in spite of failed gates; the record says so.
        expected_champion: Refuse unless this version is the champion.

    Returns:
        What was done.

    Raises:
        InputError: There is no such version, its files changed, its gates failed, or the alias was moved meanwhile.
    """
    _check_words({"--by": by, "--reason": reason})
    name = parse_version(text, model)
    if name is None:
        raise InputError(f"{text!r} is no version", remedy="Give a number such as 3, NAME/3 or @challenger")
    version = find_version(client, name)
    number = str(version.version)
    ledger = Ledger.open(client, version.name)
    history, notes = synchronise(ledger)
    seen = history.aliases
    if expected_champion is not None and seen.get(CHAMPION) != expected_champion:
        raise InputError(
            f"the champion is version {seen.get(CHAMPION, 'none')}, not {expected_champion}; nothing was changed",
            field="--expect-champion",
            remedy="Compare with the present champion first",
        )
    if seen.get(alias) == number:
        return Promotion(version.name, number, Outcome(None, notes))
    gates, evidence = _verified_evidence(client, history, version)
    warnings, failed = _judge(client, version, gates, seen, alias, key, evidence)
    if failed and not override_gates:
        raise InputError(
            f"{version.name} version {number} did not pass its gates: {'; '.join(failed)}",
            field="gates",
            remedy="Train a better one; or give --override-gates, which the record of promotions will show",
        )
    if failed:
        evidence["overridden"] = failed
        warnings.append(f"promoted in spite of its gates: {'; '.join(failed)}")
    outcome = promote(ledger, number, alias, seen, by=by, reason=reason, evidence=evidence)
    return Promotion(version.name, number, Outcome(outcome.entry, [*notes, *outcome.notes]), warnings)


def _check_words(words: dict[str, str]) -> None:
    for option, text in words.items():
        if not text.strip():
            raise InputError("is empty", field=option, remedy="The record of promotions needs it")
        if len(text) > _LONGEST[option]:
            raise InputError(f"has {len(text)} characters, {_LONGEST[option]} at most", field=option)


def _recorded_digests(history: History, version: ModelVersion) -> dict[str, str]:
    """Return the digests written down at registration: in the record, which nobody can change, and in the tags."""
    tags = {tag: version.tags[tag] for tag in (PACKAGE_DIGEST_TAG, MODEL_DIGEST_TAG) if tag in version.tags}
    entry = history.registered(str(version.version))
    if entry is None:
        return tags
    names = {PACKAGE_DIGEST_TAG: "package_digest", MODEL_DIGEST_TAG: "model_digest"}
    written = {tag: entry.evidence[key] for tag, key in names.items() if key in entry.evidence}
    for tag, digest in written.items():
        if tags.get(tag) != digest:
            raise InputError(
                f"tag {tag} of {version.name} version {version.version} isn't what was recorded at its registration",
                remedy=f"Find out who changed it; entry {entry.number} of `vitalfuse history` has the digest",
            )
    return written


def _verified_evidence(
    client: MlflowClient, history: History, version: ModelVersion
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Verify a version's files; return its gates.json, None where it has none, and what the record keeps of it."""
    recorded = _recorded_digests(history, version)
    with verified_version(client, version.name, str(version.version), recorded) as folder:
        path = folder / "artifacts" / GATES_FOLDER / GATES_JSON
        gates = json.loads(path.read_text()) if path.is_file() and GATES_TAG in version.tags else None
    return gates, evidence_of(version.tags, gates) | {"verified": sorted(recorded)}


def _judge(
    client: MlflowClient,
    version: ModelVersion,
    gates: dict[str, Any] | None,
    seen: Aliases,
    alias: str,
    key: bytes | None,
    evidence: dict[str, Any],
) -> tuple[list[str], list[str]]:
    """Return warnings, and what the version did not pass; adds a fresh comparison to the evidence."""
    if gates is None:
        return [], ["no gates were evaluated when it was registered"]
    failed = list(gates["failed"])
    champion = seen.get(CHAMPION)
    settings = GateSettings.model_validate(gates["settings"])
    if (
        alias != CHAMPION
        or champion in (None, str(version.version), gates["champion"])
        or "non_inferiority" in settings.skip
    ):
        return [], failed
    # The champion is another one than when the gates were evaluated; the predictions of both are there already.
    fresh = _compare_now(client, version, str(champion), key, settings)
    evidence["compared_now"] = {"with": champion, "result": fresh.describe()}
    failed = [name for name in failed if name != "non_inferiority"]
    if fresh.status == FAILED or (settings.strict and fresh.status == NOT_EVALUATED):
        failed.append(f"non_inferiority to version {champion}, {fresh.describe()}")
    elif fresh.status == NOT_EVALUATED:
        return [f"not compared with version {champion}, the present champion: {fresh.detail}"], failed
    return [], failed


def _compare_now(
    client: MlflowClient, version: ModelVersion, champion: str, key: bytes | None, settings: GateSettings
) -> Gate:
    try:
        own = version_predictions(client, version.name, str(version.version), key)
        other = version_predictions(client, version.name, champion, key)
    except InputError as error:
        return non_inferiority_gate(Champion(champion, reason=error.problem), settings)
    return non_inferiority_gate(Champion(champion, other, own), settings)


def roll_back_champion(client: MlflowClient, *, model: str, by: str, reason: str) -> Promotion:
    """Make the previous champion the champion again.

    Args:
        client: MLflow client.
        model: Registered model.
        by: Who decides.
        reason: Why.

    Returns:
        What was done.

    Raises:
        InputError: There is no previous champion, its files changed, or the champion was moved meanwhile.
    """
    _check_words({"--by": by, "--reason": reason})
    find_model(client, model, "--model")
    ledger = Ledger.open(client, model)
    history, notes = synchronise(ledger)
    seen = history.aliases
    if PREVIOUS not in seen:
        raise InputError(f"{model} has no previous champion to go back to", remedy="Promote a version instead")
    name = parse_version(seen[PREVIOUS], model)
    assert name is not None
    version = find_version(client, name)
    _, evidence = _verified_evidence(client, history, version)
    outcome = roll_back(ledger, seen, by=by, reason=reason, evidence=evidence)
    return Promotion(model, seen[PREVIOUS], Outcome(outcome.entry, [*notes, *outcome.notes]))


@dataclass(frozen=True)
class Told:
    """The history of a registered model.

    Attributes:
        model: Registered model.
        history: The record; None where none was begun.
        aliases: As they are set now.
        problems: What is not as it should be; empty where all is sound.
        unfinished: Whether the last command was cut off before it had set the aliases.
    """

    model: str
    history: History | None
    aliases: Aliases
    problems: list[str]
    unfinished: bool

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        entries = self.history.entries if self.history else []
        return {
            "model": self.model,
            "aliases": self.aliases,
            "entries": [entry.model_dump(mode="json") | {"hash": entry.hash} for entry in entries],
            "head": self.history.head_hash if self.history else None,
            "unfinished": self.unfinished,
            "problems": self.problems,
        }


def tell_history(client: MlflowClient, model: str, expected: str | None = None) -> Told:
    """Read the record of promotions, check it, and hold the aliases against it. Changes nothing.

    Args:
        client: MLflow client.
        model: Registered model.
        expected: A digest that was printed or kept elsewhere: the record has to hold an entry with it.

    Returns:
        The history.

    Raises:
        InputError: There is no such model, its record was deleted, or what is expected is no digest.
    """
    if expected is not None and not re.fullmatch(r"[0-9a-f]{16,64}", expected):
        raise InputError(
            f"{expected!r} is no digest", field="--head", remedy="Give the 64 digits that promote printed, 16 at least"
        )
    find_model(client, model, "--model")
    ledger = Ledger.find(client, model)
    aliases = current_aliases(client, model)
    if ledger is None:
        missing = [f"the record has no entry with the digest {expected}"] if expected else []
        return Told(model, None, aliases, missing, False)
    history = ledger.read()
    problems = list(history.problems)
    if expected and not any(entry.hash.startswith(expected) for entry in history.entries):
        problems.append(f"the record has no entry with the digest {expected}: it was written anew, or cut off")
    unfinished = not history.finished
    if not unfinished and not problems and aliases != history.aliases:
        wanted = ", ".join(f"{alias} {version}" for alias, version in history.aliases.items()) or "none"
        problems.append(f"aliases were moved by other means; the record has {wanted}")
    return Told(model, history, aliases, problems, unfinished)
