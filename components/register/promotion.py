"""Moves the aliases of a registered model: the record first, then the aliases.

Every command goes the same way: read the record, finish or write down what it finds, decide, append one entry. Of two
that read the same record only one can append; the other reads again and decides anew, or gives up where what it rests
on has changed. Aliases are then set to what the newest entry says, by whoever gets there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from components.register.audit import Action, Entry, History, Ledger, OvertakenError, retried
from data_schemas.errors import InputError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
# The champion last: servers follow it, and find the others in place.
MANAGED = (PREVIOUS, CHALLENGER, CHAMPION)
ENTRY_TAG = "vitalfuse.promotion"
_ATTEMPTS = 50

Aliases = dict[str, str]


@dataclass(frozen=True)
class Change:
    """What a command wants to write down.

    Attributes:
        after: Aliases from now on.
        alias: The alias that the version gets; None where it gets none.
        version: The version.
    """

    after: Aliases
    alias: str | None
    version: str


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        entry: Its entry; None where there was nothing to do.
        notes: What it found and put right before, one line each.
    """

    entry: Entry | None
    notes: list[str] = field(default_factory=list)


def current_aliases(client: MlflowClient, name: str) -> Aliases:
    """Return the managed aliases as they are set now.

    Args:
        client: MLflow client.
        name: Registered model.

    Returns:
        Version by alias.
    """
    aliases = retried(lambda: client.get_registered_model(name)).aliases
    return {alias: str(version) for alias, version in sorted(aliases.items()) if alias in MANAGED}


def synchronise(ledger: Ledger) -> tuple[History, list[str]]:
    """Bring record and aliases together before anything is decided.

    Aliases that a command left unset when it was cut off are set. Aliases that were moved by other means, such as in
    MLflow's UI, are written down as such and left where they are.

    Args:
        ledger: The record.

    Returns:
        The record, and what was done, one line each.

    Raises:
        InputError: The record was tampered with.
    """
    notes: list[str] = []
    for _ in range(_ATTEMPTS):
        history = ledger.read()
        if history.problems:
            raise InputError(
                f"the record of promotions isn't what was written: {'; '.join(history.problems)}",
                field=ledger.name,
                remedy="Look at `vitalfuse history`; move no alias before it is known who changed MLflow's database",
            )
        head = history.head
        actual = current_aliases(ledger.client, ledger.name)
        if head is not None and not history.finished and _on_the_way(actual, head):
            try:
                finish(ledger, head)
                notes.append(f"finished entry {head.number}, {describe(head)}, which was cut off")
                continue
            except InputError as error:
                # Such as a version that was deleted since: what the aliases are then is written down below.
                notes.append(f"entry {head.number}, {describe(head)}, can't be finished: {error}")
                actual = current_aliases(ledger.client, ledger.name)
        if actual == history.aliases:
            return history, notes
        try:
            entry = _write_outside(ledger, history, actual)
        except OvertakenError:
            continue
        if entry.before or head is not None:
            notes.append(f"aliases were moved by other means: {moves(entry.before, entry.after)}; entry {entry.number}")
    _give_up()


def _on_the_way(actual: Aliases, entry: Entry) -> bool:
    """Whether each alias is where the entry found it or where it puts it."""
    return all(actual.get(alias) in (entry.before.get(alias), entry.after.get(alias)) for alias in MANAGED)


def _write_outside(ledger: Ledger, history: History, actual: Aliases) -> Entry:
    first = history.head is None
    entry = ledger.append(
        history,
        "outside",
        version=None,
        alias=None,
        by="unknown",
        reason="aliases set before this record began" if first else "aliases found moved by other means",
        before=history.aliases,
        after=actual,
        evidence={},
    )
    ledger.mark_finished(entry)
    return entry


def change_aliases(
    ledger: Ledger,
    action: Action,
    decide: Callable[[History], Change | None],
    *,
    by: str,
    reason: str,
    evidence: dict[str, Any],
) -> Outcome:
    """Append one entry and set the aliases.

    Args:
        ledger: The record.
        action: What is done.
        decide: Given the record, what to write; None for nothing to do. Called again where another entry came first; it
            raises where that one changes what the decision rests on.
        by: Who decided.
        reason: Why.
        evidence: What it rests on.

    Returns:
        The entry, and what was put right before.

    Raises:
        InputError: The record was tampered with, or others write to it without end.
    """
    notes: list[str] = []
    for _ in range(_ATTEMPTS):
        history, found = synchronise(ledger)
        notes += found
        change = decide(history)
        if change is None:
            return Outcome(None, notes)
        try:
            entry = ledger.append(
                history,
                action,
                version=change.version,
                alias=change.alias,
                by=by,
                reason=reason,
                before=history.aliases,
                after=change.after,
                evidence=evidence,
            )
        except OvertakenError:
            continue
        finish(ledger, entry)
        return Outcome(entry, notes)
    _give_up()


def finish(ledger: Ledger, entry: Entry) -> None:
    """Set the aliases to what the newest entry says, and note it.

    A writer that was held up could set an alias to what its own entry says after a newer one was written. So the record
    is read again afterwards, until the newest entry is the one that was followed.

    Args:
        ledger: The record.
        entry: An entry that the caller has written or found unfinished.
    """
    for _ in range(_ATTEMPTS):
        newest = ledger.read().head or entry
        _set_aliases(ledger, newest)
        if (ledger.read().head or newest).number == newest.number:
            ledger.mark_finished(newest)
            return
    _give_up()


def _set_aliases(ledger: Ledger, entry: Entry) -> None:
    from mlflow.exceptions import MlflowException

    client, name = ledger.client, ledger.name
    current = current_aliases(client, name)
    for alias in MANAGED:
        wanted = entry.after.get(alias)
        if current.get(alias) == wanted:
            continue
        if wanted is None:
            retried(lambda alias=alias: client.delete_registered_model_alias(name, alias))  # type: ignore[misc]
            continue
        try:
            retried(
                lambda alias=alias, wanted=wanted: client.set_registered_model_alias(name, alias, wanted)  # type: ignore[misc]
            )
        except MlflowException as error:
            raise InputError(
                f"alias {alias} can't be set to version {wanted}, as entry {entry.number} says ({error.error_code})",
                field=name,
                remedy="Look whether MLflow still has the version",
            ) from error
    if entry.version is not None and entry.alias is not None:
        tag = f"{entry.number} {entry.hash}"
        retried(lambda: client.set_model_version_tag(name, str(entry.version), ENTRY_TAG, tag))


def assign_on_registration(
    client: MlflowClient, name: str, version: str, *, passed: bool, evidence: dict[str, Any]
) -> tuple[Aliases, list[str]]:
    """Write a new version down, and make it the challenger where it passed its gates; the champion where there is none.

    A version that was registered meanwhile and is newer stays the challenger.

    Args:
        client: MLflow client.
        name: Registered model.
        version: The new version.
        passed: Whether it passed its gates.
        evidence: Digests and verdict.

    Returns:
        Its aliases, and notes.
    """

    def decide(history: History) -> Change:
        after = dict(history.aliases)
        alias = None
        if passed and int(after.get(CHALLENGER, 0)) < int(version):
            after[CHALLENGER] = version
            alias = CHALLENGER
        if passed and CHAMPION not in after:
            after[CHAMPION] = version
            alias = CHAMPION
        return Change(after, alias, version)

    reason = "passed its gates" if passed else "failed its gates"
    outcome = change_aliases(
        Ledger.open(client, name), "register", decide, by="vitalfuse register", reason=reason, evidence=evidence
    )
    after = outcome.entry.after if outcome.entry else {}
    return {alias: number for alias, number in after.items() if number == version}, outcome.notes


def promote(
    ledger: Ledger,
    version: str,
    alias: str,
    seen: Aliases,
    *,
    by: str,
    reason: str,
    evidence: dict[str, Any],
) -> Outcome:
    """Give a version an alias; a champion that makes room becomes ``previous``.

    Args:
        ledger: The record.
        version: The version, verified by the caller.
        alias: ``CHAMPION`` or ``CHALLENGER``.
        seen: Aliases that the decision rests on.
        by: Who decided.
        reason: Why.
        evidence: What it rests on.

    Returns:
        What was done; nothing where the version has the alias.

    Raises:
        InputError: The alias was moved since.
    """

    def decide(history: History) -> Change | None:
        current = history.aliases
        _still_as_seen(history, seen, alias)
        if current.get(alias) == version:
            return None
        after = {**current, alias: version}
        if alias == CHAMPION and CHAMPION in current:
            after[PREVIOUS] = current[CHAMPION]
        return Change(after, alias, version)

    return change_aliases(ledger, "promote", decide, by=by, reason=reason, evidence=evidence)


def roll_back(ledger: Ledger, seen: Aliases, *, by: str, reason: str, evidence: dict[str, Any]) -> Outcome:
    """Make the previous champion the champion again, and the champion ``previous``.

    Args:
        ledger: The record.
        seen: Aliases that the decision rests on.
        by: Who decided.
        reason: Why.
        evidence: What it rests on.

    Returns:
        What was done.

    Raises:
        InputError: The champion was moved since.
    """

    def decide(history: History) -> Change:
        current = history.aliases
        _still_as_seen(history, seen, CHAMPION)
        _still_as_seen(history, seen, PREVIOUS)
        after = {**current, CHAMPION: current[PREVIOUS]}
        if CHAMPION in current:
            after[PREVIOUS] = current[CHAMPION]
        else:
            del after[PREVIOUS]
        return Change(after, CHAMPION, current[PREVIOUS])

    return change_aliases(ledger, "rollback", decide, by=by, reason=reason, evidence=evidence)


def _still_as_seen(history: History, seen: Aliases, alias: str) -> None:
    now = history.aliases.get(alias)
    if now == seen.get(alias):
        return
    moved = next(
        (entry for entry in reversed(history.entries) if entry.after.get(alias) != entry.before.get(alias)), None
    )
    by = f" by {moved.by} ({moved.action}: {moved.reason})" if moved else ""
    raise InputError(
        f"{alias} was moved meanwhile from {_called(seen.get(alias))} to {_called(now)}{by}; nothing was changed",
        remedy="Compare with the present one, and run the command again if you still want it",
    )


def _called(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"


def moves(before: Aliases, after: Aliases) -> str:
    """Describe what became of the aliases.

    Args:
        before: Aliases before.
        after: Aliases after.

    Returns:
        Such as "champion 3 → 4, previous 3"; "no alias moved" where none did.
    """
    parts = []
    for alias in reversed(MANAGED):
        old, new = before.get(alias), after.get(alias)
        if old != new:
            parts.append(f"{alias} {old or '–'} → {new or '–'}")
    return ", ".join(parts) or "no alias moved"


def describe(entry: Entry) -> str:
    """Describe an entry in a few words.

    Args:
        entry: The entry.

    Returns:
        Such as "promote of version 4 by Ada".
    """
    about = f" of version {entry.version}" if entry.version else ""
    return f"{entry.action}{about} by {entry.by}"


def _give_up() -> NoReturn:
    raise InputError("others write to the record of promotions all the time", remedy="Run the command again later")
