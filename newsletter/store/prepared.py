"""Statements that have to be quick.

SQLAlchemy looks at the type of every parameter and of every column each time that a statement runs. For a row of
thirty columns that takes longer than the database does, so what runs for every group of letters is compiled once
for each kind of database, together with the converters of its values. It still runs on SQLAlchemy's connection:
transactions, pooling and errors are the same. Only hooks on SQLAlchemy's statements do not see what runs here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Generic, TypeVar
from uuid import UUID, SafeUUID

from sqlalchemy import (
    JSON,
    BindParameter,
    Boolean,
    ColumnElement,
    Connection,
    Dialect,
    Executable,
    Table,
    Text,
    Update,
    Uuid,
    bindparam,
    cast,
    column,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine, UserDefinedType

from newsletter.store.types import UtcDateTime

Convert = Callable[[Any], Any] | None
T = TypeVar("T")

_ROWS = "rows_"
"""All rows in one parameter."""

_GIVEN = "given_"
"""Before the names of what rows are given, so that none is the name of a column that is set."""


# Many ids as one parameter -------------------------------------------------------------------------------------


class _Ids(UserDefinedType[Collection[UUID]]):
    """Any number of ids as one parameter, so that the text of a statement does not depend on how many."""

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], object]:
        return _hex_list if dialect.name == "sqlite" else list


class _Among(ColumnElement[bool]):
    inherit_cache = True

    def __init__(self, which: ColumnElement[UUID], name: str) -> None:
        self.which = which
        self.ids: BindParameter[Any] = bindparam(name, type_=_Ids())
        self.type = Boolean()

    def self_group(self, against: object = None) -> _Among:
        """Never `(… IN …) = 1`, as SQLAlchemy has it for other expressions; no index would serve that."""
        del against
        return self


def among(which: ColumnElement[UUID], name: str) -> ColumnElement[bool]:
    """Whether a column of ids is one of those in the parameter `name`; for `Prepared` only."""
    return _Among(which, name)


@compiles(_Among, "sqlite")
def _among_json(element: _Among, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  (SQLAlchemy's hook)
    which, ids = compiler.process(element.which, **options), compiler.process(element.ids, **options)
    return f"{which} IN (SELECT value FROM json_each({ids}))"  # noqa: S608  (compiled, and no text from outside)


@compiles(_Among, "postgresql")
def _among_array(element: _Among, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401  (SQLAlchemy's hook)
    which, ids = compiler.process(element.which, **options), compiler.process(element.ids, **options)
    return f"{which} = ANY({ids}::uuid[])"


def _hex_list(ids: Collection[UUID]) -> str:
    listed = '","'.join([each.hex for each in ids])
    return f'["{listed}"]' if listed else "[]"


# Statements that are compiled once -----------------------------------------------------------------------------


class Prepared(Generic[T]):
    """A statement whose rows become records, for what runs many times a second.

    Args:
        make: makes a record of the values of one row, in the order of the columns.
        keep: so many rows are remembered with what was made of them. What is read again within moments, as a
            reader is when their letter has been accepted, is not made anew; the database is asked all the same.
        like: another statement of the same columns and records; what one remembers the other knows.
    """

    def __init__(
        self,
        statement: Executable,
        make: Callable[[Sequence[Any]], T],
        *,
        keep: int = 0,
        like: Prepared[T] | None = None,
    ) -> None:
        self._statement = statement
        self._make = make
        self._keep = keep
        self._like = like
        self._forms: dict[str, tuple[_Form, Callable[[Any], T]]] = {}

    def fetch(self, connection: Connection, parameters: Mapping[str, Any]) -> list[T]:
        """What the statement finds or returns."""
        form, convert = self._forms.get(connection.dialect.name) or self._prepare(connection.dialect)
        return [convert(row) for row in fetch(connection, form.text, form.values(parameters))]

    def _prepare(self, dialect: Dialect) -> tuple[_Form, Callable[[Any], T]]:
        form, make = _Form(self._statement, dialect), self._make
        if self._like is not None:
            _, known = self._like._forms.get(dialect.name) or self._like._prepare(dialect)
            self._forms[dialect.name] = form, known
            return form, known
        convert = _converter(form.result_converters(), make)
        prepared = form, lru_cache(maxsize=self._keep)(convert) if self._keep else convert
        self._forms[dialect.name] = prepared
        return prepared


def fetch(connection: Connection, text: str, parameters: Any) -> Sequence[Any]:  # noqa: ANN401  (whatever the driver takes)
    """The rows that a statement finds, as the driver has them.

    The driver is asked itself: to describe a result takes SQLAlchemy longer than all else that a short one needs.

    Raises:
        DBAPIError: as SQLAlchemy raises it; a connection that was lost is not used again.
    """
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text, parameters)
        rows = cursor.fetchall()
    except connection.dialect.loaded_dbapi.Error as error:
        raise _translated(connection, text, error) from error
    finally:
        cursor.close()
    return rows


def _translated(connection: Connection, text: str, error: Exception) -> DBAPIError:
    dialect = connection.dialect
    pooled = connection.connection
    is_lost = dialect.is_disconnect(error, pooled.dbapi_connection, None)  # type: ignore[arg-type]
    if is_lost:
        connection.invalidate(error)
    translated = DBAPIError.instance(
        text, None, error, dialect.loaded_dbapi.Error, hide_parameters=True, connection_invalidated=is_lost,
        dialect=dialect,
    )  # fmt: skip
    if not isinstance(translated, DBAPIError):
        raise TypeError from error
    return translated


class _ForEachRow:
    """One statement for many rows, each with values of its own.

    SQLite runs it row by row, which costs it next to nothing; PostgreSQL gets all rows in one statement, since
    there each one costs as much as ten rows do.

    Args:
        given: the names of the columns that a row is given, in the order of its values, and their types.
        key: the column that a row is known by; given under its own name.
    """

    def __init__(self, given: Mapping[str, TypeEngine[Any]], *, key: ColumnElement[UUID]) -> None:
        self._given = dict(given)
        self._listed = _lister(given)
        self._key = key
        self._key_at = list(given).index(str(key.key))
        self._forms: dict[str, _Form] = {}

    def run(
        self, connection: Connection, rows: Sequence[Sequence[Any]], shared: Mapping[str, Any] | None = None
    ) -> set[UUID]:
        """Run it, with `shared` the values of parameters that are the same for all rows.

        Returns:
            The keys of the rows that were written.
        """
        if not rows:
            return set()
        form = self._forms.get(connection.dialect.name) or self._prepare(connection.dialect)
        if connection.dialect.name == "sqlite":
            return self._run_each(connection, form, rows, shared or {})
        listed = json.dumps([self._listed(row) for row in rows])
        found = fetch(connection, form.text, form.values({_ROWS: listed, **(shared or {})}))
        return {row[0] for row in found}

    def _run_each(
        self, connection: Connection, form: _Form, rows: Sequence[Sequence[Any]], shared: Mapping[str, Any]
    ) -> set[UUID]:
        key_at, text, values = self._key_at, form.text, form.values_of_rows(list(self._given), shared)
        cursor = connection.connection.cursor()
        execute = cursor.execute
        done: set[UUID] = set()
        try:
            for row in rows:
                execute(text, values(row))
                if cursor.rowcount == 1:
                    done.add(row[key_at])
        except connection.dialect.loaded_dbapi.Error as error:
            raise _translated(connection, text, error) from error
        finally:
            cursor.close()
        return done

    def _prepare(self, dialect: Dialect) -> _Form:
        columns: dict[str, ColumnElement[Any]]
        if dialect.name == "sqlite":
            columns = {name: bindparam(_GIVEN + name, type_=kind) for name, kind in self._given.items()}
            form = _Form(self._for_one(columns), dialect)
        else:
            # As one text: the driver looks at each value of an array for longer than the server reads it.
            listed = cast(bindparam(_ROWS, type_=Text()), JSON())
            table = func.json_to_recordset(listed).table_valued(*(column(*each) for each in self._given.items()))
            columns = dict(table.render_derived(name="given", with_types=True).c)
            form = _Form(self._for_all(columns), dialect)
        self._forms[dialect.name] = form
        return form

    def _for_one(self, columns: Mapping[str, ColumnElement[Any]]) -> Executable:
        """The statement for one row of parameters."""
        raise NotImplementedError

    def _for_all(self, columns: Mapping[str, ColumnElement[Any]]) -> Executable:
        """The statement for a table of rows; it returns the keys."""
        raise NotImplementedError


class PreparedUpdate(_ForEachRow):
    """One UPDATE of many rows; `run` returns the keys of those that were as the statement believes.

    Args:
        build: makes the statement out of the columns that a row is given.
    """

    def __init__(
        self,
        build: Callable[[Mapping[str, ColumnElement[Any]]], Update],
        given: Mapping[str, TypeEngine[Any]],
        *,
        key: ColumnElement[UUID],
    ) -> None:
        super().__init__(given, key=key)
        self._build = build

    def _for_one(self, columns: Mapping[str, ColumnElement[Any]]) -> Executable:
        return self._build(columns)

    def _for_all(self, columns: Mapping[str, ColumnElement[Any]]) -> Executable:
        return self._build(columns).returning(self._key)


class PreparedInsert(_ForEachRow):
    """One INSERT of many rows, each unless one of its unique keys is taken; `run` returns the keys of the new ones.

    Args:
        names: the columns that are given.
    """

    def __init__(self, table: Table, names: Collection[str], *, key: ColumnElement[UUID]) -> None:
        super().__init__({name: table.c[name].type for name in names}, key=key)
        self._table = table

    def _for_one(self, columns: Mapping[str, ColumnElement[Any]]) -> Executable:
        return sqlite.insert(self._table).values(dict(columns)).on_conflict_do_nothing()

    def _for_all(self, columns: Mapping[str, ColumnElement[Any]]) -> Executable:
        rows = postgresql.insert(self._table).from_select(list(columns), select(*columns.values()))
        return rows.on_conflict_do_nothing().returning(self._key)


def _written_out(lines: Sequence[str], known: dict[str, Any]) -> Any:  # noqa: ANN401  (a function of any kind)
    """The function `made` of some lines: what runs for each row, without a loop over its columns.

    Source: `collections.namedtuple` and `dataclasses` make their methods in the same way.
    """
    exec("\n".join(lines), known)  # noqa: S102  (the names in it are those of our own columns)
    return known["made"]


def _names(count: int) -> str:
    return "".join(f"value_{at}, " for at in range(count))


def _converter(converters: Sequence[Convert], make: Callable[[Sequence[Any]], T]) -> Callable[[Any], T]:
    """What makes a record of a row; columns without a converter stay as the driver has them."""
    known: dict[str, Any] = {"make": make}
    values = []
    for at, convert in enumerate(converters):
        known[f"convert_{at}"] = convert
        values.append(f"value_{at}" if convert is None else f"None if value_{at} is None else convert_{at}(value_{at})")
    lines = ["def made(row):", f" {_names(len(values))} = row", f" return make(({', '.join(values)},))"]
    made: Callable[[Any], T] = _written_out(lines, known)
    return made


def _lister(given: Mapping[str, TypeEngine[Any]]) -> Callable[[Sequence[Any]], dict[str, object]]:
    """What makes of a row what JSON holds of it, and PostgreSQL reads as a row of these columns."""
    known: dict[str, Any] = {}
    values = []
    for at, (name, kind) in enumerate(given.items()):
        convert = known[f"convert_{at}"] = _to_json(kind)
        values.append(f"{name!r}: value_{at}" if convert is None else f"{name!r}: convert_{at}(value_{at})")
    lines = ["def made(row):", f" {_names(len(values))} = row", f" return {{{', '.join(values)}}}"]
    made: Callable[[Sequence[Any]], dict[str, object]] = _written_out(lines, known)
    return made


class _Form:
    """A statement as one kind of database takes it: its text, and where its parameters come from."""

    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self.text: str = str(compiled)
        self._dialect = dialect
        self._columns = [entry.type for entry in getattr(compiled, "_result_columns", [])]
        binds = compiled.binds
        self._positional = compiled.positiontup is not None
        names = compiled.positiontup or list(binds)
        self._names = names
        self._bind: Callable[[Mapping[str, Any]], Callable[[Sequence[Any]], Sequence[Any]]] | None = None
        self._sources: list[tuple[str | None, Any]] = []
        for name in names:
            bind = binds[name]
            convert = _to_database(bind.type, dialect)
            if bind.required:
                self._sources.append((bind.key.removeprefix(_GIVEN), convert))
            else:
                value = bind.effective_value
                value = value.value if isinstance(value, Enum) else value
                self._sources.append((None, value if convert is None else convert(value)))

    def values(self, parameters: Mapping[str, Any]) -> Any:  # noqa: ANN401  (whatever the driver takes)
        """The parameters as the driver takes them."""
        listed = _values(self._sources, parameters)
        return tuple(listed) if self._positional else dict(zip(self._names, listed, strict=True))

    def values_of_rows(
        self, given: Sequence[str], shared: Mapping[str, Any]
    ) -> Callable[[Sequence[Any]], Sequence[Any]]:
        """What makes the parameters of a row, which is a tuple of what is `given`; `shared` are those of all rows."""
        if self._bind is None:
            self._bind = self._binder(given)
        return self._bind(shared)

    def _binder(self, given: Sequence[str]) -> Callable[[Mapping[str, Any]], Callable[[Sequence[Any]], Sequence[Any]]]:
        known: dict[str, Any] = {}
        parameters, before = [], []
        for at, (name, source) in enumerate(self._sources):
            known[f"known_{at}"] = source
            if name is None:
                parameters.append(f"known_{at}")
            elif name in given:
                value = f"value_{given.index(name)}"
                parameters.append(value if source is None else f"known_{at}({value})")
            else:
                before.append(
                    f"shared_{at} = " + (f"shared[{name!r}]" if source is None else f"known_{at}(shared[{name!r}])")
                )
                parameters.append(f"shared_{at}")
        lines = [
            "def made(shared):",
            *(f" {line}" for line in before),
            " def values(row):",
            f"  {_names(len(given))} = row",
            f"  return ({', '.join(parameters)},)",
            " return values",
        ]
        bind: Callable[[Mapping[str, Any]], Callable[[Sequence[Any]], Sequence[Any]]] = _written_out(lines, known)
        return bind

    def result_converters(self) -> list[Convert]:
        """What makes Python's values of the driver's, by column."""
        return [_from_database(kind, self._dialect) for kind in self._columns]


def _values(sources: Sequence[tuple[str | None, Any]], parameters: Mapping[str, Any]) -> list[Any]:
    return [
        source if name is None else parameters[name] if source is None else source(parameters[name])
        for name, source in sources
    ]


def _to_database(kind: TypeEngine[Any], dialect: Dialect) -> Convert:
    if dialect.name == "sqlite" and isinstance(kind, Uuid):
        return _hex
    if isinstance(kind, JSON):
        return _json_text
    convert: Convert = kind.dialect_impl(dialect).bind_processor(dialect)
    return convert


def _from_database(kind: TypeEngine[Any], dialect: Dialect) -> Convert:
    if dialect.name == "sqlite":
        if isinstance(kind, Uuid):
            return uuid_from_hex
        if isinstance(kind, JSON):
            return json.loads
    convert: Convert = kind.dialect_impl(dialect).result_processor(dialect, None)
    return convert


def _to_json(kind: TypeEngine[Any]) -> Callable[[Any], object] | None:
    """What makes of a value what JSON holds for it, and PostgreSQL reads as one of that type; None: it is that."""
    if isinstance(kind, Uuid):
        return _hex
    return _instant_text if isinstance(kind, UtcDateTime) else None


@lru_cache(maxsize=1024)
def _instant_text(value: datetime | None) -> str | None:
    if value is not None and value.tzinfo is None:
        message = f"{value!r} has no zone; an instant is aware"
        raise ValueError(message)
    return None if value is None else value.isoformat()


def _hex(value: UUID | None) -> str | None:
    return None if value is None else value.hex


def _json_text(value: object) -> str | None:
    # What is shown in a letter is chosen from few things.
    return None if value is None else _listed_text(value) if isinstance(value, tuple) else json.dumps(value)


@lru_cache(maxsize=256)
def _listed_text(values: tuple[object, ...]) -> str:
    return json.dumps(values)


@lru_cache(maxsize=8192)
def uuid_from_hex(text: str) -> UUID:
    """An id as SQLite keeps it; `UUID(text)` would look at it from every side, thrice as long."""
    made = _new(UUID)
    _set(made, "int", int(text, 16))
    _set(made, "is_safe", _UNKNOWN)
    return made


# Looked up once: the member of an enumeration is found by a call of Python's, and ids are made by the thousand.
_new, _set, _UNKNOWN = object.__new__, object.__setattr__, SafeUUID.unknown
