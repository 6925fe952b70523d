"""The expressions of get_all_records_where.

Grammar (XenAPI reference 4.7): value = value, and, or, not, parentheses, true, false; a value is field "name" or
"literal"; what is compared is the field's text.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from shared.errors import InvalidValue

Predicate = Callable[[dict[str, Any]], bool]
Reader = Callable[[dict[str, Any]], str]

TOKEN: Final = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\')|([A-Za-z_]+)|([()=]))')
DEPTH_MAX: Final = 50
LENGTH_MAX: Final = 10_000


def parse_query(expression: str) -> Predicate:
    """Give the predicate on wire records that the expression means.

    Raises:
        InvalidValue: it does not parse, or is too long or deep.
    """
    if len(expression) > LENGTH_MAX:
        raise InvalidValue("expr", f"{len(expression)} characters, {LENGTH_MAX} at most")
    parser = _Parser(expression)
    predicate = parser.disjunction(0)
    parser.expect_end()
    return predicate


def text_of(value: Any) -> str:
    """Give a field's text, as the expression compares it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y%m%dT%H:%M:%SZ"))
    return str(value)


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = self._tokenise(expression)
        self._position = 0

    def _tokenise(self, expression: str) -> list[str]:
        tokens, position = [], 0
        text = expression.rstrip()
        while position < len(text):
            found = TOKEN.match(text, position)
            if found is None:
                raise self._error()
            tokens.append(found[0].strip())
            position = found.end()
        return tokens

    def _error(self) -> InvalidValue:
        return InvalidValue("expr", self._expression[:200])

    def _peek(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._position += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise self._error()

    def expect_end(self) -> None:
        """Refuse what stands behind the expression."""
        if self._position != len(self._tokens):
            raise self._error()

    def disjunction(self, depth: int) -> Predicate:
        """One or more terms joined by `or`."""
        terms = [self._conjunction(depth)]
        while self._peek() == "or":
            self._take()
            terms.append(self._conjunction(depth))
        return terms[0] if len(terms) == 1 else lambda record: any(term(record) for term in terms)

    def _conjunction(self, depth: int) -> Predicate:
        terms = [self._factor(depth)]
        while self._peek() == "and":
            self._take()
            terms.append(self._factor(depth))
        return terms[0] if len(terms) == 1 else lambda record: all(term(record) for term in terms)

    def _factor(self, depth: int) -> Predicate:
        if depth > DEPTH_MAX:
            raise self._error()
        match self._peek():
            case "not":
                self._take()
                negated = self._factor(depth + 1)
                return lambda record: not negated(record)
            case "(":
                self._take()
                inner = self.disjunction(depth + 1)
                self._expect(")")
                return inner
            case "true" | "false":
                is_true = self._take() == "true"
                return lambda _record: is_true
            case _:
                return self._comparison()

    def _comparison(self) -> Predicate:
        left = self._value()
        self._expect("=")
        right = self._value()
        return lambda record: left(record) == right(record)

    def _value(self) -> Reader:
        token = self._take()
        if token == "field":  # noqa: S105 - a word of the grammar
            name = self._literal(self._take())
            return lambda record: text_of(record.get(name, ""))
        literal = self._literal(token)
        return lambda _record: literal

    def _literal(self, token: str) -> str:
        if len(token) < 2 or token[0] not in "\"'":
            raise self._error()
        return re.sub(r"\\(.)", r"\1", token[1:-1])
