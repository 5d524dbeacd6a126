"""Errors told in one line: the one that a user can mend, and that of a store which may do better later."""

from __future__ import annotations


class InputError(Exception):
    """Input that cannot be used, told in one line that names file, row, field and remedy.

    The command line prints it without a traceback and exits with code 2. The message must not hold patient
    identifiers, names or note text.

    Args:
        problem: What is wrong, and what was received.
        file: File, folder or settings file in which it was found.
        row: Row in that file, counted from 1 and including the header line.
        field: Column, key or setting.
        remedy: What the user can do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | None = None,
        row: int | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.file = file
        self.row = row
        self.field = field
        self.remedy = remedy

    def __str__(self) -> str:
        """Return the one line that a user reads."""
        place = [str(self.file)] if self.file else []
        if self.row is not None:
            place.append(f"row {self.row}")
        if self.field:
            place.append(f"field {self.field}")
        parts = [", ".join(place) + ":"] if place else []
        parts.append(self.problem.rstrip(".") + ".")
        if self.remedy:
            parts.append(self.remedy.rstrip(".") + ".")
        return " ".join(" ".join(parts).split())

    def __reduce__(self) -> tuple:
        """Keep the named parts when the error crosses a process boundary."""
        return (_rebuild, (self.problem, self.file, self.row, self.field, self.remedy))


class StoreError(RuntimeError):
    """A store of files that failed, was busy or out of reach; it may go better later.

    The command line prints it without a traceback and exits with code 1, so that what runs the step may try it again.
    The message names the location, and must hold no credentials.
    """


def _rebuild(problem: str, file: str | None, row: int | None, field: str | None, remedy: str | None) -> InputError:
    return InputError(problem, file=file, row=row, field=field, remedy=remedy)
