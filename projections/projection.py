"""What a projection is: one table, its row as a value, and a pure fold of events into it.

``project(id, row, record) -> row`` folds one decision of the log into one row. A row is a frozen struct whose fields
are the table's columns; where they are not (the task's), the module gives its own ``values`` and ``restore``. A fold
is total: it never raises on history, and an event it has no handler for leaves the row as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from events.envelope import Envelope, Recorded
from events.kernel import Event

R = TypeVar("R", bound=msgspec.Struct)

# handler(row, event, the decision it is part of) -> row, or None where there is nothing to show yet
Handler = Callable[[Any, Any, Envelope], Any]

replace = msgspec.structs.replace


class Projection(Generic[R]):
    """``table`` of rows ``R``. ``initial(id, time)`` is the row of something first heard of now.

    Every row has ``sequence`` and ``updated_at``: those of the last decision that changed it. ``columns`` are the
    table's, in the order in which ``values(row)`` gives them; ``restore(mapping)`` makes the row of them again.
    """

    def __init__(
        self,
        table: str,
        initial: Callable[[str, datetime], R],
        handlers: Mapping[type[Event], Handler],
        *,
        columns: Sequence[str],
        values: Callable[[R], tuple[Any, ...]] = msgspec.structs.astuple,
        restore: Callable[[Mapping[str, Any]], R],
    ) -> None:
        self.table = table
        self.columns = tuple(columns)
        self.values = values
        self.restore = restore
        self._initial = initial
        self._handlers = dict(handlers)

    def project(self, id: str, row: R | None, record: Recorded) -> R | None:
        """The row ``id`` after ``record``, a decision that touches it (``projections.fold.touched``): the same object
        where nothing of it changed, None where there is none."""
        envelope = record.envelope
        after: R | None = row
        for event in envelope.events:
            handler = self._handlers.get(type(event))
            if handler is not None:
                after = handler(self._initial(id, envelope.time) if after is None else after, event, envelope)
        if after is row or after is None:
            return row
        return replace(after, sequence=record.sequence, updated_at=envelope.time)


def plain(
    table: str,
    row: type[R],
    initial: Callable[[str, datetime], R],
    handlers: Mapping[type[Event], Handler],
) -> Projection[R]:
    """The projection of a table whose columns are the fields of ``row``."""
    return Projection(
        table,
        initial,
        handlers,
        columns=row.__struct_fields__,
        restore=lambda mapping: row(**mapping),
    )


def json_text(value: object) -> str:
    """``value`` as JSON, for a column of type json."""
    return msgspec.json.encode(value).decode()
