"""Aliases and the record of promotions: one after the other, cut off in between, moved by others, tampered with."""

import pytest

from components.register import audit, promotion
from components.register.audit import EXPERIMENT_PREFIX, Ledger, OvertakenError
from components.register.promotion import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    change_aliases,
    current_aliases,
    promote,
    roll_back,
    synchronise,
)
from data_schemas.errors import InputError
from tests.registry_store import MODEL, tamper

WHO = {"by": "Ada", "reason": "better on the ward", "evidence": {"run": "r1"}}


def _ledger(store):
    return Ledger.open(store.client, MODEL)


def _promote(store, version, alias=CHAMPION, seen=None, **words):
    ledger = _ledger(store)
    history, _ = synchronise(ledger)
    return promote(ledger, version, alias, history.aliases if seen is None else seen, **(WHO | words))


def test_registered_versions_become_challenger_and_the_first_one_champion(store):
    assert store.version() == "1"
    assert store.aliases() == {CHALLENGER: "1", CHAMPION: "1"}
    store.version()
    assert store.aliases() == {CHALLENGER: "2", CHAMPION: "1"}


def test_a_version_that_failed_its_gates_gets_no_alias_but_is_written_down(store):
    store.version(passed=False)
    assert store.aliases() == {}
    store.version()
    store.version(passed=False)
    assert store.aliases() == {CHALLENGER: "2", CHAMPION: "2"}
    entries = _ledger(store).read().entries
    assert [(entry.version, entry.alias, entry.reason) for entry in entries] == [
        ("1", None, "failed its gates"),
        ("2", CHAMPION, "passed its gates"),
        ("3", None, "failed its gates"),
    ]
    assert entries[2].evidence["failed_gates"] == ["macro_auc"]
    assert len(entries[2].evidence["package_digest"]) == 64


def test_an_older_version_that_is_late_leaves_the_newer_challenger(store):
    late = store.version(record=False)
    store.version()
    promotion.assign_on_registration(store.client, MODEL, late, passed=True, evidence={})
    assert store.aliases() == {CHALLENGER: "2", CHAMPION: "2"}


def test_promotion_keeps_the_champion_before_as_previous_and_rollback_swaps_them(two_versions):
    two_versions.version()
    assert _promote(two_versions, "2").entry.number == 4
    assert two_versions.aliases() == {CHAMPION: "2", PREVIOUS: "1", CHALLENGER: "3"}
    _promote(two_versions, "3")
    assert two_versions.aliases() == {CHAMPION: "3", PREVIOUS: "2", CHALLENGER: "3"}
    ledger = _ledger(two_versions)
    entry = roll_back(ledger, synchronise(ledger)[0].aliases, **WHO).entry
    assert two_versions.aliases() == {CHAMPION: "2", PREVIOUS: "3", CHALLENGER: "3"}
    assert (entry.action, entry.version) == ("rollback", "2")
    assert (
        two_versions.client.get_model_version(MODEL, "2").tags["vitalfuse.promotion"] == f"{entry.number} {entry.hash}"
    )


def test_an_entry_says_who_when_why_and_on_what_evidence(two_versions):
    _promote(two_versions, "2")
    entry = _ledger(two_versions).read().head
    assert (entry.by, entry.reason, entry.evidence) == ("Ada", "better on the ward", {"run": "r1"})
    assert entry.time.endswith("+00:00") and "@" in entry.login
    assert entry.before == {CHALLENGER: "2", CHAMPION: "1"}
    assert entry.after == {CHALLENGER: "2", CHAMPION: "2", PREVIOUS: "1"}


def test_promoting_what_has_the_alias_writes_nothing(store):
    store.version()
    assert _promote(store, "1").entry is None
    assert len(_ledger(store).read().entries) == 1


def test_of_two_that_saw_the_same_champion_the_second_is_refused(two_versions):
    two_versions.version()
    seen = current_aliases(two_versions.client, MODEL)
    _promote(two_versions, "2", seen=seen)
    with pytest.raises(InputError, match="champion was moved meanwhile from version 1 to version 2 by Ada"):
        _promote(two_versions, "3", seen=seen, by="Bob")
    assert two_versions.aliases()[CHAMPION] == "2"


def test_what_came_between_without_touching_the_alias_does_not_matter(two_versions):
    ledger = _ledger(two_versions)
    stale = ledger.read()
    two_versions.version()
    with pytest.raises(OvertakenError):
        ledger.append(stale, "promote", version="2", alias=CHAMPION, before={}, after={}, **WHO)
    _promote(two_versions, "2", seen=stale.aliases)
    assert two_versions.aliases() == {CHAMPION: "2", PREVIOUS: "1", CHALLENGER: "3"}


def test_entries_cannot_be_written_twice_through_mlflow(store):
    from mlflow.exceptions import MlflowException

    store.version()
    ledger = _ledger(store)
    kept = ledger.read().entries
    with pytest.raises(MlflowException, match="not allowed"):
        store.client.log_param(ledger.run_id, "000001", "something else")
    assert ledger.read().entries == kept


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_command_that_was_cut_off_is_finished_by_the_next_one(two_versions, monkeypatch, done):
    """Killed after the entry was written: before, between and after the moves of the aliases."""
    moved = []
    move = two_versions.client.set_registered_model_alias

    def cut_off(name, alias, version):
        if len(moved) == done:
            raise KeyboardInterrupt
        moved.append(alias)
        move(name, alias, version)

    monkeypatch.setattr(two_versions.client, "set_registered_model_alias", cut_off)
    if done == 2:
        monkeypatch.setattr(Ledger, "mark_finished", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        _promote(two_versions, "2")
    monkeypatch.undo()
    assert moved == [PREVIOUS, CHAMPION][:done]
    ledger = _ledger(two_versions)
    assert not ledger.read().finished
    history, notes = synchronise(ledger)
    assert history.finished
    assert two_versions.aliases() == {CHAMPION: "2", PREVIOUS: "1", CHALLENGER: "2"}
    assert notes == ["finished entry 3, promote of version 2 by Ada, which was cut off"]
    assert len(history.entries) == 3
    assert synchronise(ledger)[1] == []


def test_an_alias_that_was_put_back_by_hand_stays_there_and_is_written_down(two_versions):
    """After a finished promotion this is no trace of a crash: nothing may put the bad version back."""
    _promote(two_versions, "2")
    two_versions.client.set_registered_model_alias(MODEL, CHAMPION, "1")
    two_versions.version()
    assert two_versions.aliases() == {CHAMPION: "1", PREVIOUS: "1", CHALLENGER: "3"}
    outside, register = _ledger(two_versions).read().entries[-2:]
    assert (outside.action, outside.by, outside.after[CHAMPION]) == ("outside", "unknown", "1")
    assert register.before == outside.after


def test_aliases_from_before_the_record_are_taken_over(store):
    store.version(record=False)
    store.version(record=False)
    store.client.set_registered_model_alias(MODEL, CHAMPION, "1")
    store.client.set_registered_model_alias(MODEL, "blue", "1")
    _promote(store, "2")
    assert store.aliases() == {CHAMPION: "2", PREVIOUS: "1", "blue": "1"}
    first = _ledger(store).read().entries[0]
    assert (first.action, first.after) == ("outside", {CHAMPION: "1"})


def test_a_version_deleted_after_a_cut_off_promotion_does_not_block_the_record(two_versions, monkeypatch):
    two_versions.version()
    monkeypatch.setattr(promotion, "finish", lambda *_: None)
    _promote(two_versions, "2")
    monkeypatch.undo()
    two_versions.client.delete_model_version(MODEL, "2")
    history, notes = synchronise(_ledger(two_versions))
    assert "entry 4, promote of version 2 by Ada, can't be finished" in notes[0]
    assert history.head.action == "outside"
    _promote(two_versions, "3")
    assert two_versions.aliases()[CHAMPION] == "3"


def test_a_late_writer_follows_the_newest_entry(two_versions, monkeypatch):
    """Held up before it set its alias, it must not undo what came after."""
    two_versions.version()
    set_aliases = promotion._set_aliases
    held = []

    def hold_up(ledger, entry):
        if not held:
            held.append(entry)
            _promote(two_versions, "3", by="Bob")
            # As if it was held up between its last look and its write.
            two_versions.client.set_registered_model_alias(MODEL, CHAMPION, "2")
        set_aliases(ledger, entry)

    monkeypatch.setattr(promotion, "_set_aliases", hold_up)
    _promote(two_versions, "2")
    assert [entry.by for entry in _ledger(two_versions).read().entries[-2:]] == ["Ada", "Bob"]
    assert two_versions.aliases()[CHAMPION] == "3"
    assert synchronise(_ledger(two_versions))[1] == []


@pytest.mark.parametrize(
    ("statement", "values", "problem"),
    [
        (
            "UPDATE params SET value = replace(value, 'Ada', 'Eve') WHERE key = '000003'",
            (),
            "entry 3 was changed after it was written",
        ),
        ("UPDATE params SET value = 'gone' WHERE key = '000002'", (), "entry 2 can't be read"),
        ("DELETE FROM params WHERE key = '000002'", (), "entry 3 is not where it was written"),
        (
            "UPDATE params SET value = (SELECT value FROM params WHERE key = '000001') WHERE key = '000002'",
            (),
            "entry 2 is not where it was written",
        ),
    ],
)
def test_a_changed_record_is_noticed_and_nothing_is_moved(two_versions, statement, values, problem):
    _promote(two_versions, "2")
    tamper(two_versions.folder / "mlflow.db", statement, *values)
    problems = _ledger(two_versions).read().problems
    assert len(problems) == 1 and problem in problems[0]
    with pytest.raises(InputError, match="isn't what was written"):
        _promote(two_versions, "1")
    assert two_versions.aliases()[CHAMPION] == "2"


def test_an_entry_written_anew_with_its_digest_no_longer_bears_the_next(two_versions):
    _promote(two_versions, "2")
    ledger = _ledger(two_versions)
    entry = ledger.read().entries[1]
    forged = entry.model_copy(update={"by": "Eve"})
    tamper(two_versions.folder / "mlflow.db", "UPDATE params SET value = ? WHERE key = '000002'", forged.to_value())
    assert "entry 3 doesn't follow the entry before it" in ledger.read().problems[0]


def test_a_deleted_record_is_told_and_not_begun_anew(store):
    store.version()
    ledger = _ledger(store)
    store.client.delete_run(ledger.run_id)
    with pytest.raises(InputError, match=r"record of promotions was deleted: run"):
        _ledger(store)
    store.client.restore_run(ledger.run_id)
    experiment = store.client.get_experiment_by_name(EXPERIMENT_PREFIX + MODEL)
    store.client.delete_experiment(experiment.experiment_id)
    with pytest.raises(InputError, match=r"record of promotions was deleted: experiment"):
        _ledger(store)


def test_two_that_begin_the_record_share_one(store, monkeypatch):
    """The second finds none, makes its own, and fails to give it the record's name."""
    first = Ledger.open(store.client, MODEL)
    find = Ledger.find
    answers = [None]
    monkeypatch.setattr(
        Ledger, "find", classmethod(lambda cls, client, name: answers.pop() if answers else find(client, name))
    )
    second = Ledger.open(store.client, MODEL)
    assert second.run_id == first.run_id
    names = [found.name for found in store.client.search_experiments()]
    assert [name for name in names if name.startswith(EXPERIMENT_PREFIX)] == [EXPERIMENT_PREFIX + MODEL]


def test_an_entry_longer_than_mlflow_takes_is_refused(store):
    store.version()
    with pytest.raises(InputError, match="characters"):
        _promote(store, "1", alias=PREVIOUS, reason="x" * 6000)
    assert len(_ledger(store).read().entries) == 1


def test_a_lost_answer_counts_as_what_was_written(two_versions, monkeypatch):
    """The server wrote the entry, and its answer was lost: writing it again is no second entry and no defeat."""
    log_param = two_versions.client.log_param

    def lossy(run_id, key, value):
        log_param(run_id, key, value)
        return log_param(run_id, key, value)

    monkeypatch.setattr(two_versions.client, "log_param", lossy)
    _promote(two_versions, "2")
    assert [entry.number for entry in _ledger(two_versions).read().entries] == [1, 2, 3]


def test_a_busy_database_is_tried_again(monkeypatch):
    from mlflow.exceptions import MlflowException

    monkeypatch.setattr(audit.time, "sleep", lambda seconds: None)
    answers = iter([MlflowException("database is locked"), MlflowException("x", 14), "done"])

    def call():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    busy = MlflowException("database is locked")
    assert audit._busy(busy)
    assert audit._busy(MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: model_version_tags.key"))
    assert not audit._busy(MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: experiments.name"))
    with pytest.raises(MlflowException, match="no such"):
        audit.retried(lambda: (_ for _ in ()).throw(MlflowException("no such run")))
    answers = iter([busy, busy, "done"])
    assert audit.retried(call) == "done"


def test_a_writer_that_always_loses_gives_up(store, monkeypatch):
    store.version()

    def overtaken(*arguments, **words):
        raise OvertakenError

    monkeypatch.setattr(Ledger, "append", overtaken)
    with pytest.raises(InputError, match="all the time"):
        change_aliases(_ledger(store), "promote", lambda history: promotion.Change({}, None, "1"), **WHO)
