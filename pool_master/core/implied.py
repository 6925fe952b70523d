"""The messages that every class has because it has fields: getters, setters, record and lookup messages.

Rules: nobody writes these by hand; which exist follows from the fields' qualifiers (XenAPI class reference), and each is a
Message row like any other, so that docs, roles, CLI and listMethods need not know the difference.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pool_master.core import events as ev
from pool_master.core.context import Context
from pool_master.core.datamodel import (
    STRING,
    ClassModel,
    Field,
    Kind,
    Message,
    MessageKind,
    Parameter,
    Qualifier,
    WireType,
    map_of,
    record_of,
    ref_to,
    set_of,
)
from pool_master.core.marshal import field_value, record_builder, to_wire
from pool_master.core.pool import Pool
from pool_master.core.query_language import parse_query
from pool_master.core.table import Table
from shared.enums import Role
from shared.errors import HandleInvalid, MapDuplicateKey, UuidInvalid

WRITE_ROLE: Final = {"VM": Role.VM_ADMIN, "VIF": Role.VM_ADMIN, "task": Role.READ_ONLY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Implied:
    """The parameters of an implied message, by position; which of them it has, its row says."""

    self: str = ""
    uuid: str = ""
    label: str = ""
    expr: str = ""
    key: str = ""
    value: Any = None


def implied_messages(model: ClassModel) -> tuple[Message, ...]:
    """Give the messages that the class has by its fields alone."""
    rows = [*_lookups(model)]
    for field in model.fields:
        rows.append(_getter(model, field))
        if field.qualifier is Qualifier.RW:
            rows += _setters(model, field)
    return tuple(rows)


def table_of(pool: Pool, model: ClassModel) -> Table[str, Any]:
    """Give the pool's table that holds the class's records."""
    table: Table[str, Any] = getattr(pool, model.table)
    return table


def record_by_ref(pool: Pool, model: ClassModel, ref: str) -> Any:
    """Give a record.

    Raises:
        HandleInvalid: there is none.
    """
    record = table_of(pool, model).get(ref)
    if record is None:
        raise HandleInvalid(model.name, ref)
    return record


def _row(
    name: str,
    doc: str,
    answer: Callable[[Any, Any], Any],
    returns: WireType,
    parameters: tuple[Parameter, ...] = (),
) -> Message:
    return Message(
        name=name,
        doc=doc,
        kind=MessageKind.QUERY,
        parameters=parameters,
        returns=returns,
        request=Implied,
        answer=answer,
        has_async=False,
    )


def _self(model: ClassModel) -> Parameter:
    return Parameter(name="self", type=ref_to(model.name))


def _lookups(model: ClassModel) -> list[Message]:
    build = record_builder(model)
    refs, records = set_of(ref_to(model.name)), map_of(ref_to(model.name), record_of(model.name))
    by_uuid = functools.partial(_by_uuid, model)
    rows = [
        _row(
            "get_record",
            f"Get a record containing the current state of the given {model.name}.",
            lambda pool, request: build(pool, record_by_ref(pool, model, request.self)),
            record_of(model.name),
            (_self(model),),
        ),
        _row(
            "get_by_uuid",
            f"Get a reference to the {model.name} instance with the specified UUID.",
            lambda pool, request: by_uuid(pool, request.uuid),
            ref_to(model.name),
            (Parameter(name="uuid", type=STRING),),
        ),
    ]
    if model.has_get_all:
        where = (Parameter(name="expr", type=STRING),)
        rows += [
            _row(
                "get_all",
                f"Return a list of all the {model.name}s known to the system.",
                lambda pool, _request: list(table_of(pool, model)),
                refs,
            ),
            _row(
                "get_all_records",
                f"Return a map of {model.name} references to records for all {model.name}s.",
                lambda pool, _request: {
                    ref: build(pool, record) for ref, record in table_of(pool, model).items()
                },
                records,
            ),
            _row(
                "get_all_records_where",
                "Return a map of references to records of those that fit the expression.",
                lambda pool, request: _where(pool, model, request.expr),
                records,
                where,
            ),
            _row(
                "get_all_where",
                "Return references to those that fit the expression.",
                lambda pool, request: list(_where(pool, model, request.expr)),
                refs,
                where,
            ),
        ]
    if model.field("name_label") is not None:
        rows.append(
            _row(
                "get_by_name_label",
                f"Get all the {model.name} instances with the given label.",
                lambda pool, request: _by_label(pool, model, request.label),
                refs,
                (Parameter(name="label", type=STRING),),
            )
        )
    return rows


def _by_uuid(model: ClassModel, pool: Pool, uuid: str) -> str:
    ref = pool.uuids.get((model.name, uuid))
    if ref is None:
        raise UuidInvalid(model.name, uuid)
    return ref


def _by_label(pool: Pool, model: ClassModel, label: str) -> list[str]:
    field = model.field("name_label")
    assert field is not None
    return [
        ref
        for ref, record in table_of(pool, model).items()
        if field_value(pool, record, field) == label
    ]


def _where(pool: Pool, model: ClassModel, expression: str) -> dict[str, Any]:
    fits = parse_query(expression)
    build = record_builder(model)
    records = ((ref, build(pool, record)) for ref, record in table_of(pool, model).items())
    return {ref: record for ref, record in records if fits(record)}


def _getter(model: ClassModel, field: Field) -> Message:
    return _row(
        f"get_{field.name}",
        f"Get the {field.name} field of the given {model.name}.",
        lambda pool, request: field_value(pool, record_by_ref(pool, model, request.self), field),
        field.type,
        (_self(model),),
    )


def _write(
    model: ClassModel,
    name: str,
    doc: str,
    decide: Callable[[Pool, Implied, Context], list[ev.Event]],
    parameters: tuple[Parameter, ...],
) -> Message:
    return Message(
        name=name,
        doc=doc,
        kind=MessageKind.COMMAND,
        parameters=(_self(model), *parameters),
        request=Implied,
        decide=decide,
        role=WRITE_ROLE.get(model.name, Role.POOL_OPERATOR),
        has_async=False,
    )


def _setters(model: ClassModel, field: Field) -> list[Message]:
    def decide_set(pool: Pool, request: Implied, _context: Context) -> list[ev.Event]:
        record_by_ref(pool, model, request.self)
        value = to_wire(request.value, field.type)
        return [_field_set(request.self, value)]

    def _field_set(ref: str, value: Any) -> ev.FieldSet:
        return ev.FieldSet(object_class=model.name, ref=ref, field=field.name, value=value)

    value = Parameter(name="value", type=field.type)
    doc = f"Set the {field.name} field of the given {model.name}."
    rows = [_write(model, f"set_{field.name}", doc, decide_set, (value,))]
    if field.type.kind is Kind.MAP:
        rows += _map_writers(model, field)
    if field.type.kind is Kind.SET:
        rows += _set_writers(model, field)
    return rows


def _map_writers(model: ClassModel, field: Field) -> list[Message]:
    def decide_add(pool: Pool, request: Implied, _context: Context) -> list[ev.Event]:
        held = _held(pool, model, field, request.self)
        if request.key in held:
            raise MapDuplicateKey(model.name, field.name, request.self, request.key)
        return [
            ev.MapKeySet(
                object_class=model.name,
                ref=request.self,
                field=field.name,
                key=request.key,
                value=request.value,
            )
        ]

    def decide_remove(pool: Pool, request: Implied, _context: Context) -> list[ev.Event]:
        if request.key not in _held(pool, model, field, request.self):
            return []
        return [
            ev.MapKeyRemoved(
                object_class=model.name, ref=request.self, field=field.name, key=request.key
            )
        ]

    assert field.type.key is not None
    assert field.type.item is not None
    key = Parameter(name="key", type=field.type.key)
    value = Parameter(name="value", type=field.type.item)
    doc = f"the {field.name} field of the given {model.name}."
    return [
        _write(model, f"add_to_{field.name}", f"Add a key to {doc}", decide_add, (key, value)),
        _write(
            model, f"remove_from_{field.name}", f"Remove a key from {doc}", decide_remove, (key,)
        ),
    ]


def _set_writers(model: ClassModel, field: Field) -> list[Message]:
    def decide(pool: Pool, request: Implied, *, is_member: bool) -> list[ev.Event]:
        held = _held(pool, model, field, request.self)
        if (request.value in held) == is_member:
            return []
        value = [*held, request.value] if is_member else [x for x in held if x != request.value]
        return [
            ev.FieldSet(object_class=model.name, ref=request.self, field=field.name, value=value)
        ]

    assert field.type.item is not None
    value = (Parameter(name="value", type=field.type.item),)
    doc = f"the {field.name} field of the given {model.name}."
    return [
        _write(
            model,
            f"add_{field.name}",
            f"Add a value to {doc}",
            lambda pool, request, _context: decide(pool, request, is_member=True),
            value,
        ),
        _write(
            model,
            f"remove_{field.name}",
            f"Remove a value from {doc}",
            lambda pool, request, _context: decide(pool, request, is_member=False),
            value,
        ),
    ]


def _held(pool: Pool, model: ClassModel, field: Field, ref: str) -> Any:
    return functools.reduce(getattr, field.path, record_by_ref(pool, model, ref))
