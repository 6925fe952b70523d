"""Write what follows from code: pages of the API's classes and of the configuration, example configurations. `poe docs`.

Rules: nothing is said here that the datamodel or a configuration class does not say; the same code gives the same bytes;
a page whose class is gone is deleted. tests/test_docs.py fails when a page is not current.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import host_agent.config
import pool_master.config
from host_agent.config import AgentConfig
from pool_master.config import MasterConfig
from pool_master.core.classes import CLASSES
from pool_master.core.datamodel import MANDATORY, ClassModel, Field, Message, Parameter, WireType
from pool_master.core.implied import Implied
from pool_master.core.lease import LeaseTimes
from pool_master.core.vm_effects import EFFECTS
from pool_master.shell.leadership import SILENCE_S
from tests import coverage_table

ROOT: Final = Path(__file__).parents[1]
API: Final = Path("docs/api")
FIELD_HEADER: Final = ("field", "type", "qualifier", "default", "what it is")
IMPLIED_HEADER: Final = ("message", "parameters", "gives", "role")
NATS_URLS: Final = [f"nats://nats{number}:4222" for number in (1, 2, 3)]
# What the examples of configuration set; all other keys show their defaults. Hosts and users are those of deploy/nats.
MASTER_EXAMPLE: Final = {
    "pool": "vmpool",
    "name": "master1",
    "nats_urls": NATS_URLS,
    "nats_replicas": 3,
    "nats_user": "master",
    "listen": "0.0.0.0:443",
    "address": "192.0.2.11",
    "password_file": "/etc/vmpool/password",
}
AGENT_EXAMPLE: Final = {
    "pool": "vmpool",
    "nats_urls": NATS_URLS,
    "nats_user": "host1",
    "host_uuid": "3f8e6b1c-7d52-4a09-9c1e-5b2a8d4f6e70",
    "address": "192.0.2.21",
}
# Times that hold together, from quick to calm; the first are the defaults.
TIMES: Final = (
    LeaseTimes(),
    LeaseTimes(heartbeat_s=0.5, lease_s=3.0, fence_s=2.0, margin_s=1.0, authority_s=12.0),
    LeaseTimes(heartbeat_s=2.0, lease_s=10.0, fence_s=5.0, margin_s=2.0, authority_s=15.0),
    LeaseTimes(heartbeat_s=5.0, lease_s=30.0, fence_s=10.0, margin_s=3.0, authority_s=30.0),
)
TIMES_HEADER: Final = (
    *("heartbeat", "lease", "fence", "margin", "authority"),
    *(
        "a dead host's guests may start elsewhere after",
        "with a fence agent",
        "if the leader died too",
    ),
)
GENERATED: Final = "<!-- Written by `poe docs` from the code: change it there. -->"


def pages() -> dict[Path, str]:
    """Give every generated file by its path in the project."""
    found = {API / f"{model.name}.md": _class_page(model) for model in CLASSES}
    found[API / "README.md"] = _index_page()
    found[API / "vm-fields.md"] = _effects_page()
    found[API / "coverage.md"] = _coverage_page()
    found[Path("docs/configuration.md")] = _configuration_page()
    found[Path("deploy/config/master.toml")] = _example(
        MasterConfig, pool_master.config.ENVIRONMENT_PREFIX, MASTER_EXAMPLE
    )
    found[Path("deploy/config/agent.toml")] = _example(
        AgentConfig, host_agent.config.ENVIRONMENT_PREFIX, AGENT_EXAMPLE
    )
    return found


def main() -> None:
    """Bring the pages on disk up to date."""
    current = pages()
    for path, text in current.items():
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")
    for path in stale_pages():
        path.unlink()


def stale_pages() -> list[Path]:
    """Give the pages in docs/api that no class stands behind."""
    current = pages()
    return [
        path for path in sorted((ROOT / API).glob("*.md")) if path.relative_to(ROOT) not in current
    ]


# --- the API


def _index_page() -> str:
    rows = [
        (f"[{model.name}]({model.name}.md)", model.doc, str(len(model.messages)))
        for model in CLASSES
    ]
    return _page(
        "The API",
        "The classes of XenAPI that vmpool speaks, over XML-RPC at `/` and JSON-RPC at `/jsonrpc`. Every method takes the"
        " session's reference as its first parameter, except `session.login_with_password` and `system.listMethods`."
        " Where a method has an asynchronous form, `Async.CLASS.METHOD` takes the same parameters and gives a task.",
        _table(("class", "what it is", "messages"), rows),
        "[What the fields of a VM do](vm-fields.md) to a guest, and [which test shows what](coverage.md).",
    )


def _effects_page() -> str:
    rows = [
        (f"`{name}`", effect.kvm or "nothing", effect.xen or "nothing", effect.note)
        for name, effect in EFFECTS.items()
    ]
    return _page(
        "What the fields of a VM do",
        "To a guest of QEMU, and to one of libvirt's Xen driver, for which the same definition is written but on which"
        " nothing here has been run. What does nothing to a guest is stored, or the pool's own.",
        _table(("field", "to a KVM guest", "to a Xen guest", "otherwise"), rows),
    )


def _coverage_page() -> str:
    parts = [
        "What of XenAPI's first VM class is there, and the test that shows it; after a dash, why there is none.",
    ]
    for title, table in (("Fields", coverage_table.FIELDS), ("Messages", coverage_table.MESSAGES)):
        rows = [(f"`{name}`", *cells) for name, cells in table.items()]
        parts += [f"## {title}", _table((title[:-1].lower(), *coverage_table.COLUMNS), rows)]
    return _page("Coverage", *parts)


def _class_page(model: ClassModel) -> str:
    parts = [model.doc.rstrip(".") + "."]
    if model.fields:
        parts += ["## Fields", _table(FIELD_HEADER, [_field_row(field) for field in model.fields])]
    own = [message for message in model.messages if message.request is not Implied]
    implied = [message for message in model.messages if message.request is Implied]
    shown = [message for message in own if not message.is_hidden]
    if shown:
        parts += ["## Messages", *(_message_section(message) for message in shown)]
    if implied:
        rows = [
            (f"`{m.name}`", _signature(m.parameters), f"`{_type(m.returns)}`", m.role.value)
            for m in implied
        ]
        parts += ["## Messages that follow from the fields", _table(IMPLIED_HEADER, rows)]
    return _page(model.name, *parts)


def _field_row(field: Field) -> tuple[str, ...]:
    qualifier = f"{field.qualifier}, deprecated" if field.is_deprecated else field.qualifier.value
    default = "computed" if field.derive else _value(field.default)
    return (f"`{field.name}`", f"`{_type(field.type)}`", qualifier, default, field.doc)


def _message_section(message: Message) -> str:
    facts = [
        f"- parameters: {_signature(message.parameters) or 'none'}",
        f"- gives: `{_type(message.returns)}`",
        f"- role: {message.role}",
        f"- asynchronous form: {'yes' if message.has_async else 'no'}",
    ]
    if message.operation is not None:
        facts.append(f"- operation: `{message.operation}`")
    if message.waits:
        facts.append("- waits its turn behind a conflicting operation")
    if message.errors:
        facts.append(f"- errors: {', '.join(f'`{code}`' for code in message.errors)}")
    return f"### {message.name}\n\n{message.doc}\n\n" + "\n".join(facts)


def _signature(parameters: tuple[Parameter, ...]) -> str:
    return ", ".join(_parameter(parameter) for parameter in parameters)


def _parameter(parameter: Parameter) -> str:
    text = f"`{parameter.name}`: `{_type(parameter.type)}`"
    return text if parameter.default is MANDATORY else f"{text} = {_value(parameter.default)}"


def _type(wire_type: WireType) -> str:
    return str(wire_type).strip()  # A ref to a class that vmpool does not have is a mere "ref".


def _value(value: Any) -> str:
    if value is MANDATORY:
        return ""
    return f"`{json.dumps(_plain(value))}`"


def _plain(value: Any) -> Any:
    match value:
        case StrEnum():
            return value.value
        case datetime():
            return value.isoformat()
        case Mapping():
            return {_plain(key): _plain(item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(item) for item in value]
        case _:
            return value


# --- the configuration


def _configuration_page() -> str:
    times = LeaseTimes()
    return _page(
        "Configuration",
        "A TOML file with these keys, given by `--config`; then the environment, which wins: the prefix and the key in"
        " upper case, lists separated by commas. An unknown or wrong key ends the start with one line that names it."
        " Commented examples: [master.toml](../deploy/config/master.toml), [agent.toml](../deploy/config/agent.toml).",
        "## vmpool-master",
        f"Environment: `{pool_master.config.ENVIRONMENT_PREFIX}` + key.",
        _table(("key", "default", "meaning"), _settings(MasterConfig)),
        "### How the times hold together",
        f"A host's guests are surely dead `lease_s + fence_s + margin_s` after its last lease: {times.dead_after_s:g} s"
        " with the defaults. Checked at start: `lease_s` is at least 3 `heartbeat_s` (two lost requests fence nobody),"
        " and `authority_s` at least `lease_s` (an outage of the store that is shorter than a lease fences nobody).",
        "Other choices (seconds), and what follows: without a fence agent a host is given up lease, fence and margin after"
        " its last lease; with one, the lease and the agent's own time after it; if the leader's machine died with it, its"
        f" silence of {SILENCE_S:g} s and its authority come first. `heartbeat_s`, `first_lease_s` and `first_fence_s` of"
        " the agents must be the same. Below the second row a busy machine looks like a dead one.",
        _table(TIMES_HEADER, [_times_row(choice) for choice in TIMES]),
        "## vmpool-agent",
        f"Environment: `{host_agent.config.ENVIRONMENT_PREFIX}` + key.",
        _table(("key", "default", "meaning"), _settings(AgentConfig)),
    )


def _times_row(times: LeaseTimes) -> tuple[str, ...]:
    assert times.problems() == []
    chosen = (times.heartbeat_s, times.lease_s, times.fence_s, times.margin_s, times.authority_s)
    after_election = SILENCE_S + times.authority_s + times.dead_after_s
    return (
        *(f"{seconds:g}" for seconds in chosen),
        f"{times.dead_after_s:g}",
        f"{times.lease_s:g} + the agent's",
        f"{after_election:g}",
    )


def _settings(config: type) -> list[tuple[str, ...]]:
    return [
        (f"`{key.name}`", _value(key.default), key.metadata["meaning"]) for key in fields(config)
    ]


def _example(config: type, prefix: str, values: Mapping[str, object]) -> str:
    parts = [
        "# Example configuration with every key; what is commented out shows its default. Written by `poe docs`.\n"
        f"# The environment wins over this file: {prefix} and the key in upper case."
    ]
    for key in fields(config):
        is_set = key.name in values
        value = json.dumps(_plain(values[key.name] if is_set else key.default))
        line = f"{key.name} = {value}"
        parts.append(f"# {key.metadata['meaning']}\n{line if is_set else f'# {line}'}")
    return "\n\n".join(parts) + "\n"


# --- Markdown


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([GENERATED, f"# {title}", *parts]) + "\n"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(_table_lines(header, rows))


def _table_lines(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join('---' for _ in header)}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"


if __name__ == "__main__":
    main()
