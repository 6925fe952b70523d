"""xe's spellings: `vmpool vm-start uuid=... on=...`, for hands and scripts that know xe.

Rules: verbs come from the datamodel, `<class>-<message> key=value`, so that a new message has its verb for free; the few
where xe's own words differ are in the table ALIASES.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pool_master.cli import xe_params
from pool_master.cli.client import NULL, PoolClient
from pool_master.cli.failures import Misused
from pool_master.cli.lookup import find
from pool_master.cli.records import typed
from pool_master.cli.render import Terminal
from pool_master.cli.vm_record import vm_record
from pool_master.cli.waiting import carry_out
from pool_master.cli.xe_values import Shower, fold, parse
from pool_master.core.classes import CLASS_BY_NAME, CLASSES
from pool_master.core.datamodel import MANDATORY, ClassModel, Kind, Message, MessageKind, Parameter

FLAGS: Final = ("minimal", "force", "json", "live", "paused")


@dataclass(frozen=True, slots=True)
class Arguments:
    """What stands behind a verb; `values` by folded key, a map's members under `members`."""

    values: dict[str, str] = field(default_factory=dict)
    members: dict[str, dict[str, str]] = field(default_factory=dict)
    is_minimal: bool = False
    is_json: bool = False

    def without(self, *keys: str) -> "Arguments":
        """Give the same without some of the values."""
        kept = {key: value for key, value in self.values.items() if key not in keys}
        return Arguments(kept, self.members, self.is_minimal, self.is_json)

    def renamed(self, old: str, new: str) -> "Arguments":
        """Give the same with one key called otherwise."""
        values = {new if key == old else key: value for key, value in self.values.items()}
        return Arguments(values, self.members, self.is_minimal, self.is_json)

    def is_set(self, key: str) -> bool:
        """Say whether a flag is given: --force, or force=true."""
        return self.values.get(key, "false").lower() in {"true", "yes", "1", ""}


def parse_arguments(words: list[str]) -> Arguments:
    """Read key=value, key:member=value, and --flag.

    Raises:
        Misused: anything else.
    """
    values: dict[str, str] = {}
    members: dict[str, dict[str, str]] = {}
    for word in words:
        key, has_value, value = word.removeprefix("--").partition("=")
        name, has_member, member = key.partition(":")
        if not has_value:
            if not word.startswith("--") or fold(key) not in FLAGS:
                raise Misused(
                    f"{word}: xe's arguments are key=value, and --minimal, --force, --json"
                )
            values[fold(key)] = "true"
        elif has_member:
            members.setdefault(fold(name), {})[member] = value
        else:
            values[fold(name)] = value
    is_minimal = values.pop("minimal", "") == "true"
    is_json = values.pop("json", "") == "true"
    return Arguments(values, members, is_minimal, is_json)


def _start(arguments: Arguments) -> tuple[str, Arguments]:
    arguments = arguments.renamed("paused", "start-paused")
    if "on" in arguments.values:
        return "start_on", arguments.renamed("on", "host")
    return "start", arguments


def _clean_or_hard(what: str) -> Callable[[Arguments], tuple[str, Arguments]]:
    def choose(arguments: Arguments) -> tuple[str, Arguments]:
        kind = "hard" if arguments.is_set("force") else "clean"
        return f"{kind}_{what}", arguments.without("force")

    return choose


def _migrate(arguments: Arguments) -> tuple[str, Arguments]:
    options = {key: value for key, value in arguments.values.items() if key in {"live", "force"}}
    options.update(arguments.members.get("options", {}))
    rest = arguments.without("live", "force")
    members = {**rest.members, "options": options}
    return "pool_migrate", Arguments(rest.values, members, rest.is_minimal, rest.is_json)


# What xe calls otherwise than the API does.
ALIASES: Final[dict[str, Callable[[Arguments], tuple[str, Arguments]]]] = {
    "vm-start": _start,
    "vm-shutdown": _clean_or_hard("shutdown"),
    "vm-reboot": _clean_or_hard("reboot"),
    "vm-migrate": _migrate,
    "vm-reset-powerstate": lambda arguments: ("power_state_reset", arguments.without("force")),
    "host-forget": lambda arguments: ("destroy", arguments.without("force")),
}
# xe's own names for parts of a class, by a filter.
LISTS: Final = {"template-list": ("VM", {"is-a-template": "true"})}


def run(client: PoolClient, verb: str, words: list[str]) -> None:
    """Carry out one verb."""
    arguments = parse_arguments(words)
    terminal = Terminal(is_json=arguments.is_json)
    if fold(verb) in LISTS:
        class_name, only = LISTS[fold(verb)]
        merged = Arguments(
            {**only, **arguments.values}, {}, arguments.is_minimal, arguments.is_json
        )
        xe_params.list_records(client, terminal, CLASS_BY_NAME[class_name], merged)
        return
    model, action = class_and_action(verb)
    if (handler := xe_params.ACTIONS.get(action)) is not None:
        handler(client, terminal, model, arguments)
        return
    alias = ALIASES.get(fold(verb))
    name, arguments = alias(arguments) if alias else (action, arguments)
    message = message_of(model, name, verb)
    values = parameters(client, model, message, arguments)
    _send(client, terminal, model, message, values, is_minimal=arguments.is_minimal)


def class_and_action(verb: str) -> tuple[ClassModel, str]:
    """Give the class that a verb begins with, and the rest.

    Raises:
        Misused: it begins with none.
    """
    folded = fold(verb)
    for model in sorted(CLASSES, key=lambda model: -len(model.name)):
        prefix = fold(model.name) + "-"
        if folded.startswith(prefix):
            return model, folded.removeprefix(prefix)
    raise Misused(f"{verb} is no command. {_nearest(folded)}")


def message_of(model: ClassModel, name: str, verb: str) -> Message:
    """Give the message of that name.

    Raises:
        Misused: the class has none.
    """
    for message in model.messages:
        if fold(message.name) == fold(name):
            return message
    raise Misused(
        f"{verb} is no command: {model.name} has no message {name}. {_nearest(fold(verb))}"
    )


def verbs() -> list[str]:
    """Give every verb there is."""
    derived = [
        f"{fold(m.name)}-{fold(x.name)}" for m in CLASSES for x in m.messages if not x.is_hidden
    ]
    lists = [
        f"{fold(m.name)}-{action}" for m in CLASSES if m.has_get_all for action in xe_params.ACTIONS
    ]
    return sorted({*derived, *lists, *ALIASES, *LISTS})


def _nearest(folded: str) -> str:
    near = difflib.get_close_matches(folded, verbs(), n=3)
    return f"Did you mean {' or '.join(near)}?" if near else "`vmpool xe --help` says more."


def parameters(
    client: PoolClient, model: ClassModel, message: Message, arguments: Arguments
) -> list[Any]:
    """Give a message's values in order, from keys and values.

    Raises:
        Misused: one is missing, or one too many.
    """
    left = dict(arguments.values)
    members = dict(arguments.members)
    values: list[Any] = []
    kept = 0
    for parameter in message.parameters:
        is_given, value = _value(client, model, parameter, left, members)
        if not is_given and parameter.default is MANDATORY and value is MANDATORY:
            needed = ", ".join(_key(model, p) for p in message.parameters)
            raise Misused(
                f"{model.name}.{message.name} needs {_key(model, parameter)}=… (it takes {needed})"
            )
        values.append(parameter.default if value is MANDATORY else value)
        if is_given or parameter.default is MANDATORY:
            kept = len(values)
    if unknown := [*left, *members]:
        known = ", ".join(_key(model, p) for p in message.parameters) or "nothing"
        raise Misused(f"{model.name}.{message.name} does not know {unknown[0]}: it takes {known}")
    return values[:kept]


def _key(model: ClassModel, parameter: Parameter) -> str:
    is_own = parameter.type.kind is Kind.REF and parameter.type.name == model.name
    return "uuid" if is_own else fold(parameter.name)


def _value(  # noqa: PLR0911 - one arm per kind
    client: PoolClient,
    model: ClassModel,
    parameter: Parameter,
    left: dict[str, str],
    members: dict[str, dict[str, str]],
) -> tuple[bool, Any]:
    """Take a parameter's value out of what is left; MANDATORY stands for none."""
    name = fold(parameter.name)
    match parameter.type.kind:
        case Kind.RECORD:
            return True, _record(client, model, left, members)
        case Kind.MAP:
            text, more = left.pop(name, ""), members.pop(name, {})
            is_given = bool(text or more)
            return is_given, {**parse(client, text, parameter.type, name), **more}
        case Kind.REF if parameter.type.name == model.name:
            keys = ("uuid", name, fold(model.name), "name-label")
            for key in keys:
                if key in left:
                    return True, find(client, model.name, left.pop(key))
            return False, MANDATORY
        case Kind.BOOL if name not in left:
            return False, False if parameter.default is MANDATORY else MANDATORY
        case _ if name in left:
            return True, parse(client, left.pop(name), parameter.type, name)
        case _:
            return False, MANDATORY


def _record(
    client: PoolClient, model: ClassModel, left: dict[str, str], members: dict[str, dict[str, str]]
) -> dict[str, Any]:
    """Make a record of all that is left: the constructor's members by name."""
    given: dict[str, Any] = {}
    for one in model.fields:
        key = fold(one.name)
        if key in left:
            given[one.name] = parse(client, left.pop(key), one.type, key)
        if key in members:
            given[one.name] = {**given.get(one.name, {}), **members.pop(key)}
    return vm_record(given=given) if model.name == "VM" else given


def _send(
    client: PoolClient,
    terminal: Terminal,
    model: ClassModel,
    message: Message,
    values: list[Any],
    *,
    is_minimal: bool,
) -> None:
    method = f"{model.name}.{message.name}"
    if message.kind is MessageKind.OPERATION and message.has_async:
        about = str(client.call(f"{model.name}.get_name_label", values[0])) if values else ""
        ended = carry_out(client, terminal, method, *values, doing=f"{method} {about}")
        if terminal.is_json:
            terminal.show({"status": "success", "task": ended.uuid if ended else ""})
        return
    value = client.call(method, *values)
    if terminal.is_json:
        terminal.show(typed(value, message.returns))
    else:
        _print(client, value, message, is_minimal=is_minimal)


def _print(client: PoolClient, value: Any, message: Message, *, is_minimal: bool) -> None:
    shower = Shower(client)
    kind = message.returns
    if kind.kind is Kind.VOID or value == NULL:
        return
    if kind.kind is Kind.RECORD and kind.name in CLASS_BY_NAME:
        xe_params.print_record(shower, CLASS_BY_NAME[kind.name], value)
    elif kind.kind is Kind.SET and kind.item is not None and kind.item.kind is not Kind.MAP:
        shown = [shower.show(item, kind.item) for item in value]
        print(("," if is_minimal else ", ").join(shown))
    elif kind.kind is Kind.SET:
        for item in value:
            print("\n".join(f"{key}: {held}" for key, held in item.items()), end="\n\n")
    else:
        print(shower.show(value, kind))
