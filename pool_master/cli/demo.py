"""`vmpool seed-demo`: something to look at in an empty pool; made once, by name."""

from typing import Any, Final

from pool_master.cli.client import PoolClient
from pool_master.cli.vm_record import vm_record

MIB: Final = 2**20
# name, memory, VCPUs, whether a template, what it is for
DEMO: Final = (
    ("demo-small", 96, 1, True, "template: a guest that only counts"),
    ("demo-large", 512, 2, True, "template: a guest with room"),
    ("demo-web-1", 96, 1, False, "one of two web servers"),
    ("demo-web-2", 96, 1, False, "the other web server"),
    ("demo-db", 256, 2, False, "the database behind them"),
)
MARK: Final = {"vmpool-demo": "true"}


def seed(client: PoolClient) -> list[dict[str, Any]]:
    """Make what is not there yet; give all of it."""
    told = []
    for name, memory, vcpus, is_template, description in DEMO:
        held = client.call("VM.get_by_name_label", name)
        record = vm_record(
            name=name,
            memory=memory * MIB,
            vcpus=vcpus,
            given={"is_a_template": is_template, "other_config": MARK, "tags": ["demo"]},
            name_description=description,
        )
        ref = held[0] if held else client.call("VM.create", record)
        uuid = client.call("VM.get_uuid", ref)
        told.append(
            {"name_label": name, "uuid": uuid, "is_a_template": is_template, "made": not held}
        )
    return told
