"""xe's record verbs, for every class: list, param-list, param-get, param-set, param-add, param-remove, param-clear.

Rules: the output is xe's to the space, since scripts cut it up; fields, their types and who may write them are the
datamodel's.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from pool_master.cli.client import PoolClient
from pool_master.cli.failures import Failed, Misused
from pool_master.cli.lookup import find
from pool_master.cli.records import typed_record
from pool_master.cli.render import Terminal
from pool_master.cli.xe_values import Shower, fold, parse
from pool_master.core.datamodel import STRING, ClassModel, Field, Kind, Qualifier

if TYPE_CHECKING:
    from pool_master.cli.xe import Arguments

# What xe lists where nobody says params=.
LISTED: Final = {
    "VM": ("uuid", "name_label", "power_state"),
    "host": ("uuid", "name_label", "name_description"),
    "pool": ("uuid", "name_label", "name_description", "master", "default_SR"),
    "task": ("uuid", "name_label", "name_description", "status", "progress"),
}
LISTED_OTHERWISE: Final = ("uuid", "name_label", "name_description")
# What xe leaves out of a list unless it is asked for.
HIDDEN: Final = {"VM": {"is_a_template": False, "is_a_snapshot": False}}
INDENT: Final = 4


def list_records(
    client: PoolClient, terminal: Terminal, model: ClassModel, arguments: "Arguments"
) -> None:
    """<class>-list [params=…] [field=value…]."""
    if not model.has_get_all:
        raise Misused(f"{model.name} cannot be listed")
    values = arguments.without("params").values
    filters = {
        fold(_field(model, key).name): (_field(model, key), value) for key, value in values.items()
    }
    hidden = HIDDEN.get(model.name, {})
    shower = Shower(client)
    records = []
    for ref, record in client.call(f"{model.name}.get_all_records").items():
        if any(record[key] != value for key, value in hidden.items() if fold(key) not in filters):
            continue
        if all(_fits(shower, record, *wanted) for wanted in filters.values()) and _holds(
            model, record, arguments.members
        ):
            records.append((ref, record))
    if terminal.is_json:
        terminal.show([{"ref": ref, **typed_record(record, model.name)} for ref, record in records])
        return
    fields = _wanted(model, arguments.values.get("params", ""))
    if arguments.is_minimal:
        print(
            ",".join(shower.show(record[fields[0].name], fields[0].type) for _, record in records)
        )
        return
    for _, record in records:
        print_record(shower, model, record, fields)
        print("\n")


def _fits(shower: Shower, record: dict[str, Any], wanted: Field, value: str) -> bool:
    shown = shower.show(record[wanted.name], wanted.type)
    return shown.casefold() == value.casefold() if wanted.type.kind is Kind.ENUM else shown == value


def _holds(model: ClassModel, record: dict[str, Any], members: dict[str, dict[str, str]]) -> bool:
    return all(
        record[_field(model, key).name].get(member) == value
        for key, pairs in members.items()
        for member, value in pairs.items()
    )


def _wanted(model: ClassModel, names: str) -> tuple[Field, ...]:
    """Give the fields to show: xe shows the uuid first, and what was asked for in the class's order."""
    if names == "all":
        return _with_uuid_first(model.fields)
    if names:
        return tuple(_field(model, name.strip()) for name in names.split(",") if name.strip())
    listed = LISTED.get(model.name, LISTED_OTHERWISE)
    return tuple(found for name in listed if (found := model.field(name)) is not None)


def _with_uuid_first(fields: Iterable[Field]) -> tuple[Field, ...]:
    return tuple(sorted(fields, key=lambda one: one.name != "uuid"))


def print_record(
    shower: Shower, model: ClassModel, record: dict[str, Any], fields: tuple[Field, ...] = ()
) -> None:
    """Print a record, names right-aligned but the first."""
    shown = [
        (f"{one.name.replace('_', '-')} ({_rights(one)})", shower.show(record[one.name], one.type))
        for one in fields or _with_uuid_first(model.fields)
        if one.name in record
    ]
    width = INDENT + max(len(name) for name, _ in shown)
    for number, (name, value) in enumerate(shown):
        print(f"{name:<{width}}: {value}" if number == 0 else f"{name:>{width}}: {value}")


def _rights(one: Field) -> str:
    kind = {Kind.SET: "S", Kind.MAP: "M"}.get(one.type.kind, " ")
    return kind + ("RW" if one.qualifier is Qualifier.RW else "RO")


def _param_list(
    client: PoolClient, terminal: Terminal, model: ClassModel, arguments: "Arguments"
) -> None:
    """<class>-param-list uuid=…"""
    record = client.call(f"{model.name}.get_record", _object(client, model, arguments))
    if terminal.is_json:
        terminal.show(typed_record(record, model.name))
    else:
        print_record(Shower(client), model, record)


def _param_get(
    client: PoolClient, terminal: Terminal, model: ClassModel, arguments: "Arguments"
) -> None:
    """<class>-param-get uuid=… param-name=… [param-key=…]."""
    wanted = _named(model, arguments)
    value = client.call(f"{model.name}.get_{wanted.name}", _object(client, model, arguments))
    kind = wanted.type
    if key := arguments.values.get("param-key", ""):
        if kind.kind is not Kind.MAP:
            raise Misused(f"param-key: {wanted.name} is not a map")
        if key not in value:
            raise Failed(f"{wanted.name} has no key {key}")
        value, kind = value[key], kind.item or STRING
    if terminal.is_json:
        terminal.show(typed_record({wanted.name: value}, model.name)[wanted.name])
    else:
        print(Shower(client).show(value, kind))


def _param_set(
    client: PoolClient, _terminal: Terminal, model: ClassModel, arguments: "Arguments"
) -> None:
    """<class>-param-set uuid=… name=value… map:key=value…; all are checked before the first is set."""
    ref = _object(client, model, arguments)
    setters = {message.name for message in model.messages}
    calls: list[tuple[str, Any]] = []
    for key, text in arguments.without("uuid").values.items():
        one = _writable(_field(model, key), setters)
        calls.append((f"set_{one.name}", parse(client, text, one.type, key)))
    for key, members in arguments.members.items():
        one = _writable(_field(model, key), setters)
        if one.type.kind is not Kind.MAP:
            raise Misused(f"{key}: is not a map")
        held = client.call(f"{model.name}.get_{one.name}", ref)
        calls.append((f"set_{one.name}", {**held, **members}))
    if not calls:
        raise Misused("param-set needs at least one name=value")
    for setter, value in calls:
        client.call(f"{model.name}.{setter}", ref, value)


def _param_add(
    client: PoolClient, _terminal: Terminal, model: ClassModel, arguments: "Arguments"
) -> None:
    """<class>-param-add uuid=… param-name=… key=value… (a map), or param-key=value (a set)."""
    ref, one = _object(client, model, arguments), _named(model, arguments)
    given = arguments.without("uuid", "param-name").values
    match one.type.kind:
        case Kind.MAP:
            for key, value in given.items():
                client.call(f"{model.name}.add_to_{one.name}", ref, key, value)
        case Kind.SET if "param-key" in given:
            client.call(f"{model.name}.add_{one.name}", ref, given["param-key"])
        case _:
            raise Misused(f"{one.name} is no set or map, or param-key= is missing")


def _param_remove(
    client: PoolClient, _terminal: Terminal, model: ClassModel, arguments: "Arguments"
) -> None:
    """<class>-param-remove uuid=… param-name=… param-key=…"""
    ref, one = _object(client, model, arguments), _named(model, arguments)
    key = arguments.values.get("param-key")
    verbs = {Kind.MAP: "remove_from", Kind.SET: "remove"}
    if key is None or one.type.kind not in verbs:
        raise Misused(f"{one.name} is no set or map, or param-key= is missing")
    client.call(f"{model.name}.{verbs[one.type.kind]}_{one.name}", ref, key)


def _param_clear(
    client: PoolClient, _terminal: Terminal, model: ClassModel, arguments: "Arguments"
) -> None:
    """<class>-param-clear uuid=… param-name=…"""
    ref, one = _object(client, model, arguments), _named(model, arguments)
    empty: dict[Kind, Any] = {
        Kind.MAP: {},
        Kind.SET: [],
        Kind.STRING: "",
        Kind.REF: "OpaqueRef:NULL",
    }
    if one.type.kind not in empty:
        raise Misused(f"{one.name} cannot be empty")
    client.call(f"{model.name}.set_{one.name}", ref, empty[one.type.kind])


def _object(client: PoolClient, model: ClassModel, arguments: "Arguments") -> str:
    uuid = arguments.values.get("uuid")
    if not uuid:
        raise Misused(f"which {model.name}? uuid=…")
    return find(client, model.name, uuid)


def _named(model: ClassModel, arguments: "Arguments") -> Field:
    name = arguments.values.get("param-name")
    if not name:
        raise Misused("which field? param-name=…")
    return _field(model, name)


def _field(model: ClassModel, key: str) -> Field:
    for one in model.fields:
        if fold(one.name) == fold(key):
            return one
    raise Misused(
        f"{model.name} has no field {key}: {fold(model.name)}-param-list shows those it has"
    )


def _writable(one: Field, setters: set[str]) -> Field:
    if f"set_{one.name}" not in setters:
        raise Misused(f"{one.name} cannot be set")
    return one


Action = Callable[[PoolClient, Terminal, ClassModel, "Arguments"], None]
ACTIONS: Final[dict[str, Action]] = {
    "list": list_records,
    "param-list": _param_list,
    "param-get": _param_get,
    "param-set": _param_set,
    "param-add": _param_add,
    "param-remove": _param_remove,
    "param-clear": _param_clear,
}
