"""The expressions of get_all_records_where: what they mean, what is refused, and that nothing makes them run away."""

from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_master.core.query_language import DEPTH_MAX, LENGTH_MAX, parse_query, text_of
from shared.errors import InvalidValue

RECORD: Final[dict[str, Any]] = {
    "name_label": "web",
    "is_a_template": False,
    "VCPUs_max": 2,
    "power_state": "Running",
    "quoted": 'a"b',
}


@pytest.mark.parametrize(
    ("expression", "is_true"),
    [
        ("true", True),
        ("false", False),
        ("not true", False),
        ("not not true", True),
        ('field "name_label" = "web"', True),
        ("field 'name_label' = 'web'", True),
        ('"web" = field "name_label"', True),
        ('field "name_label" = "db"', False),
        ('field "is_a_template" = "false"', True),
        ('field "VCPUs_max" = "2"', True),
        ('field "no_such_field" = ""', True),
        ('field "quoted" = "a\\"b"', True),
        ('field "quoted" = \'a"b\'', True),
        ('"a" = "a"', True),
        ("true and false", False),
        ("true or false", True),
        ("false and true or true", True),
        ("true or true and false", True),
        ("(true or true) and false", False),
        ("not false and true", True),
        ("not (false or true)", False),
        (' field "name_label"="web"and field "power_state"="Running" ', True),
    ],
)
def test_an_expression_means_what_it_says(expression: str, is_true: bool) -> None:
    assert parse_query(expression)(RECORD) is is_true


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "maybe",
        "true true",
        "true and",
        "and true",
        "(true",
        "true)",
        "()",
        "not",
        'field "a"',
        'field "a" =',
        'field = "a"',
        "field name = 'a'",
        '"a" == "a"',
        '"a" < "b"',
        '"open',
        "true; false",
    ],
)
def test_what_does_not_parse_is_refused(expression: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        parse_query(expression)
    assert refused.value.parameters[0] == "expr"


def test_an_expression_is_neither_endless_nor_bottomless() -> None:
    deep = "(" * (DEPTH_MAX + 2) + "true" + ")" * (DEPTH_MAX + 2)
    for expression in (deep, "not " * (DEPTH_MAX + 2) + "true", " " * LENGTH_MAX + "true"):
        with pytest.raises(InvalidValue):
            parse_query(expression)
    assert parse_query("(" * DEPTH_MAX + "true" + ")" * DEPTH_MAX)({})
    assert parse_query(" or ".join(["false"] * 1000 + ["true"]))({})


def test_values_are_compared_as_clients_see_them() -> None:
    assert text_of(True) == "true"
    assert text_of(3) == "3"
    assert text_of(datetime(2024, 4, 20, 12, tzinfo=UTC)) == "20240420T12:00:00Z"


@given(st.text(alphabet="()=\"'\\ andortfieluNs", max_size=60))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    try:
        predicate = parse_query(text)
    except InvalidValue:
        return
    assert predicate(RECORD) in {True, False}


literals = st.text(alphabet=st.characters(exclude_characters="\n", exclude_categories=["Cs"]))


@given(value=literals)
def test_every_text_can_be_written_as_a_literal(value: str) -> None:
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parse_query(f'field "x" = {quoted}')({"x": value})
