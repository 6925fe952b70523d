"""The coverage table says what is so: its tests exist, and nothing is left out or called missing that is there."""

import re
from pathlib import Path
from typing import Final

import pytest

from pool_master.core.classes import CLASS_BY_NAME
from pool_master.core.vm_effects import EFFECTS
from tests.coverage_table import COLUMNS, FIELDS, MESSAGES

TESTS: Final = Path(__file__).parents[1]
NAMED: Final = re.compile(r"[a-z0-9_]+/[a-z0-9_]+\.py(?:::\w+)?")
CELLS: Final = [
    (name, column, cell)
    for name, cells in {**FIELDS, **MESSAGES}.items()
    for column, cell in zip(COLUMNS, cells, strict=True)
]


@pytest.mark.parametrize(("name", "column", "cell"), CELLS)
def test_a_cell_names_tests_that_exist_or_says_why_there_is_none(
    name: str, column: str, cell: str
) -> None:
    named = NAMED.findall(cell)
    assert named or (cell.startswith("- ") and len(cell) > 5), f"{name}, {column}: {cell!r}"
    for test in named:
        path, _, function = test.partition("::")
        text = (TESTS / path).read_text(encoding="utf-8")
        assert not function or re.search(rf"def {function}\(", text), f"there is no {test}"


def test_the_datamodel_has_every_field_and_each_has_its_effect() -> None:
    model = CLASS_BY_NAME["VM"]
    assert list(FIELDS) == list(EFFECTS)
    assert [name for name in FIELDS if model.field(name) is None] == []
    said = [name for name, effect in EFFECTS.items() if effect.kvm or effect.xen or effect.note]
    assert said == list(EFFECTS)


def test_what_is_called_missing_is() -> None:
    there = {message.name for message in CLASS_BY_NAME["VM"].messages}
    assert [
        name for name, cells in MESSAGES.items() if name not in there and cells[0][0] != "-"
    ] == []
    assert (len(FIELDS), len(MESSAGES)) == (44, 36)
