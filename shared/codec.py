"""Typed values to bytes and back: msgpack with the structure that dataclass annotations give.

Rules: unknown members are ignored and missing ones get their defaults, so that a new version reads the old; a union of
dataclasses is told apart by the class name in `type`; what does not decode raises DecodeError, never anything else.
"""

import functools
import types
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, Union, get_args, get_origin

import cattrs
import msgpack
import msgspec

T = TypeVar("T")

TAG: Final = "type"
EPOCH: Final = datetime.fromtimestamp(0, UTC)


class DecodeError(ValueError):
    """Bytes that do not hold what they should."""


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False, omit_if_default=True)
    converter.register_structure_hook(datetime, lambda value, _: moment_from_us(value))
    converter.register_unstructure_hook(datetime, moment_to_us)
    converter.register_structure_hook_func(_is_struct, msgspec.convert)
    converter.register_unstructure_hook_func(_is_struct, msgspec.to_builtins)
    converter.register_structure_hook_func(_is_tagged_union, _structure_tagged)
    converter.register_unstructure_hook_factory(_is_tagged_union, lambda _: unstructure_tagged)
    return converter


def _is_struct(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _is_tagged_union(annotation: object) -> bool:
    if get_origin(annotation) not in {Union, types.UnionType}:
        return False
    return all(hasattr(member, "__dataclass_fields__") for member in get_args(annotation))


@functools.cache
def _members(union: object) -> dict[str, type]:
    return {member.__name__: member for member in get_args(union)}


def _structure_tagged(value: dict[str, Any], union: object) -> object:
    member = _members(union)[value[TAG]]
    return CONVERTER.structure(value, member)


def unstructure_tagged(value: object) -> dict[str, Any]:
    """Give a dataclass of a union as a dict that names its class."""
    plain: dict[str, Any] = CONVERTER.unstructure(value, type(value))
    plain[TAG] = type(value).__name__
    return plain


@functools.lru_cache(maxsize=64)
def moment_from_us(microseconds: int) -> datetime:
    """Microseconds since 1970 to an aware UTC datetime; all events of a commit ask for the same one."""
    return EPOCH + timedelta(0, 0, microseconds)


def moment_to_us(moment: datetime) -> int:
    """An aware datetime to microseconds since 1970."""
    delta = moment - EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


CONVERTER: Final = _make_converter()


def to_plain(value: object, annotation: object = None) -> Any:
    """Give `value` as what msgpack and JSON hold; name the `annotation` where it is a union."""
    return CONVERTER.unstructure(value, annotation or type(value))


def from_plain(plain: Any, annotation: type[T]) -> T:
    """Give the typed value that `plain` holds.

    Raises:
        DecodeError: it does not fit the annotation.
    """
    try:
        return CONVERTER.structure(plain, annotation)
    except Exception as error:
        raise DecodeError(
            f"not a {getattr(annotation, '__name__', annotation)}: {error!r}"
        ) from error


def encode(value: object, annotation: object = None) -> bytes:
    """Give `value` as bytes."""
    return pack(to_plain(value, annotation))


def decode(data: bytes, annotation: type[T]) -> T:
    """Give the typed value in `data`.

    Raises:
        DecodeError: these bytes hold something else.
    """
    return from_plain(unpack(data), annotation)


def pack(plain: object) -> bytes:
    """Give plain values as msgpack; equal values always give equal bytes."""
    packed: bytes = msgpack.packb(plain, use_bin_type=True)
    return packed


def unpack(data: bytes) -> Any:
    """Give the plain values in msgpack bytes.

    Raises:
        DecodeError: not msgpack, or too deep or long for it.
    """
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:
        raise DecodeError(f"not msgpack: {error!r}") from error
