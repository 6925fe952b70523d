"""A call to a typed request, or a typed refusal."""

from typing import Any

from pool_master.core.classes import CLASS_BY_NAME
from pool_master.core.datamodel import MANDATORY, Kind, Message, Parameter
from pool_master.core.marshal import constructor_type, constructor_value, from_wire
from shared.errors import MessageParameterCountMismatch


def request_of(method: str, message: Message, values: list[Any]) -> Any:
    """Give the request that the values mean.

    Raises:
        MessageParameterCountMismatch: too many or too few.
        FieldTypeError, InvalidValue: one of them does not fit.
    """
    parameters = message.parameters
    least = sum(1 for parameter in parameters if parameter.default is MANDATORY)
    if not least <= len(values) <= len(parameters):
        raise MessageParameterCountMismatch(method, expected=len(parameters), received=len(values))
    assert message.request is not None
    given = {
        parameter.name: _typed(message.request, parameter, value)
        for parameter, value in zip(parameters, values, strict=False)
    }
    return message.request(**given)


def _typed(request: type, parameter: Parameter, value: Any) -> Any:
    typed = from_wire(value, parameter.type, parameter.name)
    if parameter.type.kind is Kind.RECORD:
        model = CLASS_BY_NAME[parameter.type.name]
        return constructor_value(model, constructor_type(request, parameter.name), typed)
    return typed
