"""XenAPI failures: one class per code, which owns the code and formats its parameters, once.

Rules: a failure that a client may see is one of these; parameters are strings, in the order of XenAPI's error list;
anything else that escapes is a defect of ours and reaches the client as INTERNAL_ERROR without a traceback.
"""

from collections.abc import Iterable
from typing import ClassVar

from shared.enums import PowerState


class XenApiError(Exception):
    """A failure with its XenAPI code; `parameters` follow the code in ErrorDescription."""

    code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(self, *parameters: str) -> None:
        self.parameters: tuple[str, ...] = tuple(str(parameter) for parameter in parameters)
        super().__init__(self.wire_code, *self.parameters)

    @property
    def wire_code(self) -> str:
        """The code as clients see it."""
        return self.code

    @property
    def description(self) -> list[str]:
        """ErrorDescription: the code and its parameters."""
        return [self.wire_code, *self.parameters]

    def __str__(self) -> str:
        return " ".join(self.description)


class ReportedError(XenApiError):
    """A failure that a host or the log told us, with the code it came with."""

    def __init__(self, code: str, *parameters: str) -> None:
        self.reported_code = code
        super().__init__(*parameters)

    @property
    def wire_code(self) -> str:
        return self.reported_code


class InternalError(XenApiError):
    """INTERNAL_ERROR [text]."""

    code = "INTERNAL_ERROR"


class MessageMethodUnknown(XenApiError):
    """MESSAGE_METHOD_UNKNOWN [method]."""

    code = "MESSAGE_METHOD_UNKNOWN"


class MessageParameterCountMismatch(XenApiError):
    """MESSAGE_PARAMETER_COUNT_MISMATCH [method, expected, received], the session not counted."""

    code = "MESSAGE_PARAMETER_COUNT_MISMATCH"

    def __init__(self, method: str, *, expected: int, received: int) -> None:
        super().__init__(method, str(expected), str(received))


class FieldTypeError(XenApiError):
    """FIELD_TYPE_ERROR [field]: a parameter or member of the wrong type."""

    code = "FIELD_TYPE_ERROR"


class InvalidValue(XenApiError):
    """INVALID_VALUE [field, value]."""

    code = "INVALID_VALUE"

    def __init__(self, field: str, value: object) -> None:
        super().__init__(field, str(value))


class ValueNotSupported(XenApiError):
    """VALUE_NOT_SUPPORTED [field, value, reason]."""

    code = "VALUE_NOT_SUPPORTED"

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(field, str(value), reason)


class NotImplementedInPool(XenApiError):
    """NOT_IMPLEMENTED [message]."""

    code = "NOT_IMPLEMENTED"


class HandleInvalid(XenApiError):
    """HANDLE_INVALID [class, ref]."""

    code = "HANDLE_INVALID"

    def __init__(self, class_name: str, ref: str) -> None:
        super().__init__(class_name, ref)


class UuidInvalid(XenApiError):
    """UUID_INVALID [class, uuid]."""

    code = "UUID_INVALID"

    def __init__(self, class_name: str, uuid: str) -> None:
        super().__init__(class_name, uuid)


class MapDuplicateKey(XenApiError):
    """MAP_DUPLICATE_KEY [class, field, ref, key]."""

    code = "MAP_DUPLICATE_KEY"

    def __init__(self, class_name: str, field: str, ref: str, key: str) -> None:
        super().__init__(class_name, field, ref, key)


class PermissionDenied(XenApiError):
    """RBAC_PERMISSION_DENIED [permission, message]."""

    code = "RBAC_PERMISSION_DENIED"


class SessionInvalid(XenApiError):
    """SESSION_INVALID [ref]."""

    code = "SESSION_INVALID"


class SessionAuthenticationFailed(XenApiError):
    """SESSION_AUTHENTICATION_FAILED [user, text]."""

    code = "SESSION_AUTHENTICATION_FAILED"


class SessionNotRegistered(XenApiError):
    """SESSION_NOT_REGISTERED [session]: event.next before event.register."""

    code = "SESSION_NOT_REGISTERED"


class EventFromTokenParseFailure(XenApiError):
    """EVENT_FROM_TOKEN_PARSE_FAILURE [token]."""

    code = "EVENT_FROM_TOKEN_PARSE_FAILURE"


class EventSubscriptionParseFailure(XenApiError):
    """EVENT_SUBSCRIPTION_PARSE_FAILURE [text]."""

    code = "EVENT_SUBSCRIPTION_PARSE_FAILURE"


class EventsLost(XenApiError):
    """EVENTS_LOST []: refetch and register again."""

    code = "EVENTS_LOST"


class HostIsSlave(XenApiError):
    """HOST_IS_SLAVE [address of the leader]."""

    code = "HOST_IS_SLAVE"


class HostStillBooting(XenApiError):
    """HOST_STILL_BOOTING []: no leader is known yet."""

    code = "HOST_STILL_BOOTING"


class HostIsLive(XenApiError):
    """HOST_IS_LIVE [host]: the host may still run guests."""

    code = "HOST_IS_LIVE"


class HostNotLive(XenApiError):
    """HOST_NOT_LIVE []."""

    code = "HOST_NOT_LIVE"


class HostOffline(XenApiError):
    """HOST_OFFLINE [host]."""

    code = "HOST_OFFLINE"


class HostDisabled(XenApiError):
    """HOST_DISABLED [host]."""

    code = "HOST_DISABLED"


class HostNotEnoughFreeMemory(XenApiError):
    """HOST_NOT_ENOUGH_FREE_MEMORY [needed bytes, available bytes]."""

    code = "HOST_NOT_ENOUGH_FREE_MEMORY"

    def __init__(self, *, needed: int, available: int) -> None:
        super().__init__(str(needed), str(available))


class HostNotEnoughPcpus(XenApiError):
    """HOST_NOT_ENOUGH_PCPUS [vcpus, pcpus]."""

    code = "HOST_NOT_ENOUGH_PCPUS"

    def __init__(self, *, vcpus: int, pcpus: int) -> None:
        super().__init__(str(vcpus), str(pcpus))


class HostEvacuateInProgress(XenApiError):
    """HOST_EVACUATE_IN_PROGRESS [host]."""

    code = "HOST_EVACUATE_IN_PROGRESS"


class HostHasResidentVms(XenApiError):
    """HOST_HAS_RESIDENT_VMS [host]."""

    code = "HOST_HAS_RESIDENT_VMS"


class CannotContactHost(XenApiError):
    """CANNOT_CONTACT_HOST [host]."""

    code = "CANNOT_CONTACT_HOST"


class NoHostsAvailable(XenApiError):
    """NO_HOSTS_AVAILABLE []."""

    code = "NO_HOSTS_AVAILABLE"


class HaIsEnabled(XenApiError):
    """HA_IS_ENABLED []."""

    code = "HA_IS_ENABLED"


class HaNotEnabled(XenApiError):
    """HA_NOT_ENABLED []."""

    code = "HA_NOT_ENABLED"


class HaAbortNewMaster(XenApiError):
    """HA_ABORT_NEW_MASTER [reason]: the master stays who it is."""

    code = "HA_ABORT_NEW_MASTER"


class HaOperationWouldBreakFailoverPlan(XenApiError):
    """HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN []: a host failure would then cost protected VMs."""

    code = "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN"


class VmBadPowerState(XenApiError):
    """VM_BAD_POWER_STATE [vm, expected, actual], states in lower case, joined by ", "."""

    code = "VM_BAD_POWER_STATE"

    def __init__(self, vm: str, *, expected: Iterable[PowerState], actual: PowerState) -> None:
        super().__init__(vm, ", ".join(state.lower() for state in expected), actual.lower())


class OtherOperationInProgress(XenApiError):
    """OTHER_OPERATION_IN_PROGRESS [class, ref, operation, task]; several are written "{a,b}"."""

    code = "OTHER_OPERATION_IN_PROGRESS"

    def __init__(
        self, class_name: str, ref: str, *, operations: Iterable[str], tasks: Iterable[str]
    ) -> None:
        super().__init__(class_name, ref, _one_or_braced(operations), _one_or_braced(tasks))


def _one_or_braced(values: Iterable[str]) -> str:
    items = list(values)
    return items[0] if len(items) == 1 else "{" + ",".join(items) + "}"


class OperationBlocked(XenApiError):
    """OPERATION_BLOCKED [ref, reason stored in the map]."""

    code = "OPERATION_BLOCKED"


class OperationNotAllowed(XenApiError):
    """OPERATION_NOT_ALLOWED [text]."""

    code = "OPERATION_NOT_ALLOWED"


class VmIsTemplate(XenApiError):
    """VM_IS_TEMPLATE [vm, operation]."""

    code = "VM_IS_TEMPLATE"


class VmIsSnapshot(XenApiError):
    """VM_IS_SNAPSHOT [vm, operation]."""

    code = "VM_IS_SNAPSHOT"


class ProvisionOnlyAllowedOnTemplate(XenApiError):
    """PROVISION_ONLY_ALLOWED_ON_TEMPLATE []."""

    code = "PROVISION_ONLY_ALLOWED_ON_TEMPLATE"


class RevertOnlyAllowedOnSnapshot(XenApiError):
    """REVERT_ONLY_ALLOWED_ON_SNAPSHOT []."""

    code = "REVERT_ONLY_ALLOWED_ON_SNAPSHOT"


class VmIsImmobile(XenApiError):
    """VM_IS_IMMOBILE [vm]: platform says nomigrate or nested-virt."""

    code = "VM_IS_IMMOBILE"


class VmLacksFeature(XenApiError):
    """VM_LACKS_FEATURE [vm]: the guest does not support it."""

    code = "VM_LACKS_FEATURE"


class VmIncompatibleWithThisHost(XenApiError):
    """VM_INCOMPATIBLE_WITH_THIS_HOST [vm, host, reason]."""

    code = "VM_INCOMPATIBLE_WITH_THIS_HOST"


class VmNoSuspendSr(XenApiError):
    """VM_NO_SUSPEND_SR [vm]: there is no place for its image."""

    code = "VM_NO_SUSPEND_SR"


class VmHasNoSuspendVdi(XenApiError):
    """VM_HAS_NO_SUSPEND_VDI [class, vm]: its image is not where it was put."""

    code = "VM_HAS_NO_SUSPEND_VDI"

    def __init__(self, vm: str) -> None:
        super().__init__("VM", vm)


class VmRequiresSr(XenApiError):
    """VM_REQUIRES_SR [vm, sr]."""

    code = "VM_REQUIRES_SR"


class VmHvmRequired(XenApiError):
    """VM_HVM_REQUIRED [vm]."""

    code = "VM_HVM_REQUIRED"


class VmShutdownTimeout(XenApiError):
    """VM_SHUTDOWN_TIMEOUT [vm, seconds]."""

    code = "VM_SHUTDOWN_TIMEOUT"


class VmFailedShutdownAcknowledgment(XenApiError):
    """VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT [vm]."""

    code = "VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT"


class VmMigrateFailed(XenApiError):
    """VM_MIGRATE_FAILED [vm, source, destination, text]."""

    code = "VM_MIGRATE_FAILED"


class VmUnsafeBoot(XenApiError):
    """VM_UNSAFE_BOOT [vm]: the VM may still run on another host."""

    code = "VM_UNSAFE_BOOT"


class CannotResetControlDomain(XenApiError):
    """CANNOT_RESET_CONTROL_DOMAIN [vm]."""

    code = "CANNOT_RESET_CONTROL_DOMAIN"


class DomainExists(XenApiError):
    """DOMAIN_EXISTS [vm, domid]."""

    code = "DOMAIN_EXISTS"


class BootloaderFailed(XenApiError):
    """BOOTLOADER_FAILED [vm, text]."""

    code = "BOOTLOADER_FAILED"


class DomainBuilderError(XenApiError):
    """DOMAIN_BUILDER_ERROR [function, code, text]."""

    code = "DOMAIN_BUILDER_ERROR"


class FailedToStartEmulator(XenApiError):
    """FAILED_TO_START_EMULATOR [vm, name, text]."""

    code = "FAILED_TO_START_EMULATOR"


class MemoryConstraintViolation(XenApiError):
    """MEMORY_CONSTRAINT_VIOLATION [constraint]."""

    code = "MEMORY_CONSTRAINT_VIOLATION"


class MemoryConstraintViolationOrder(XenApiError):
    """MEMORY_CONSTRAINT_VIOLATION_ORDER []."""

    code = "MEMORY_CONSTRAINT_VIOLATION_ORDER"


class TaskCancelled(XenApiError):
    """TASK_CANCELLED [task]."""

    code = "TASK_CANCELLED"
