"""What to do about a refusal: one line per XenAPI code.

Rules: `{n}` is the n-th word of ErrorDescription (0 is the code), a reference shown as a name; `{n:size}` is bytes. A code
that is missing here, or comes with fewer words than its line needs, is shown as the pool said it.
"""

from typing import Final

from pool_master.cli.failures import Refused
from pool_master.cli.sizes import format_size

ADVICE: Final[dict[str, str]] = {
    "BOOTLOADER_FAILED": "{1} has nothing to boot ({2}): check --kernel and --ramdisk, which are paths on the host.",
    "CANNOT_CONTACT_HOST": "{1} does not answer: check the machine and its agent (`vmpool host list`).",
    "CANNOT_RESET_CONTROL_DOMAIN": "{1} is a control domain; only guests can be reset.",
    "DOMAIN_BUILDER_ERROR": "the hypervisor could not build the guest: {3}. The host's agent log says more.",
    "DOMAIN_EXISTS": "the host still has a domain of {1}: wait a moment, then `vmpool vm show`.",
    "EVENTS_LOST": "events were lost on the way: read everything again.",
    "EVENT_FROM_TOKEN_PARSE_FAILURE": "{1} is no event token; begin with an empty one.",
    "EVENT_SUBSCRIPTION_PARSE_FAILURE": "{1} is no class that can be watched.",
    "FAILED_TO_START_EMULATOR": "the hypervisor's emulator for {1} did not start: {3}.",
    "FIELD_TYPE_ERROR": "{1} has a value of the wrong type.",
    "HANDLE_INVALID": "the {1} is gone, or never was: `vmpool {1:command} list` shows those there are.",
    "HOST_DISABLED": "{1} takes no new VMs: choose another host, or `vmpool host enable {1}`.",
    "HOST_EVACUATE_IN_PROGRESS": "{1} is being evacuated: choose another host, or wait.",
    "HOST_HAS_RESIDENT_VMS": "{1} still has VMs: stop, migrate or reset them first (`vmpool vm list`).",
    "HA_ABORT_NEW_MASTER": "the master stays who it is: {1}. `vmpool master list` shows who lives.",
    "HA_IS_ENABLED": "High availability is on; 'vmpool pool disable-ha' switches it off.",
    "HA_NOT_ENABLED": "High availability is off; 'vmpool pool enable-ha' switches it on.",
    "HA_OPERATION_WOULD_BREAK_FAILOVER_PLAN": (
        "After that, a host failure would leave protected VMs without a place. See 'vmpool ha plan';"
        " or allow it: 'vmpool xe pool-param-set ha-allow-overcommit=true'."
    ),
    "HOST_IS_LIVE": "{1} lives, or is not yet surely dead, and may run guests: stop them there with"
    " `vmpool vm stop --force`, or wait until the pool has given it up (`vmpool host list`).",
    "HOST_IS_SLAVE": "this server is a standby; the master is at {1}: use --server.",
    "HOST_NOT_ENOUGH_FREE_MEMORY": "the host has {2:size} left and this needs {1:size}: choose another host, "
    "stop a VM, or give this one less memory.",
    "HOST_NOT_ENOUGH_PCPUS": "the VM wants {1} VCPUs and the host has {2} CPUs: set fewer.",
    "HOST_NOT_LIVE": "that host is not live: choose another (`vmpool host list`).",
    "HOST_OFFLINE": "{1} is offline, so nobody can do this there: bring the host back, or "
    "`vmpool vm reset` once it is surely dead.",
    "HOST_STILL_BOOTING": "the pool has no master yet: try again in a few seconds.",
    "INTERNAL_ERROR": "a defect of the server ({1}): please report it, with the server's log.",
    "INVALID_VALUE": "{1} cannot be {2}.",
    "MAP_DUPLICATE_KEY": "{2} has the key {4} already: remove it first, or set the whole map.",
    "MEMORY_CONSTRAINT_VIOLATION": "the VM's memory limits do not fit together: static min ≤ dynamic min ≤ "
    "dynamic max ≤ static max.",
    "MEMORY_CONSTRAINT_VIOLATION_ORDER": "a VM's memory minimum must not exceed its maximum.",
    "MESSAGE_METHOD_UNKNOWN": "this server does not know {1}: is it an older version?",
    "MESSAGE_PARAMETER_COUNT_MISMATCH": "{1} takes {2} parameters and got {3}.",
    "NOT_IMPLEMENTED": "this server does not do {1}.",
    "NO_HOSTS_AVAILABLE": "no host can take this VM: look for live, enabled hosts with memory left (`vmpool status`).",
    "OPERATION_BLOCKED": "somebody blocked this operation: {2}. See blocked_operations in `vmpool vm show`.",
    "OPERATION_NOT_ALLOWED": "not now: {1}.",
    "OTHER_OPERATION_IN_PROGRESS": "{2} is busy with {3}: wait for it, or `vmpool task cancel`.",
    "PROVISION_ONLY_ALLOWED_ON_TEMPLATE": "only a template can be provisioned.",
    "RBAC_PERMISSION_DENIED": "your role does not allow this ({1}): ask for a higher one.",
    "REVERT_ONLY_ALLOWED_ON_SNAPSHOT": "only a snapshot can be reverted to.",
    "SESSION_AUTHENTICATION_FAILED": "wrong user or password: check --user and --password-file.",
    "SESSION_INVALID": "the session has ended: try again.",
    "SESSION_NOT_REGISTERED": "register for events first.",
    "DEVICE_ALREADY_ATTACHED": "the guest has {1} already.",
    "PBD_EXISTS": "{2} knows already how to reach {1}, or another host has it for itself.",
    "SR_BACKEND_FAILURE": "the storage failed: {3}",
    "SR_FULL": "the SR has {2:size} and this needs {1:size}.",
    "SR_HAS_NO_PBDS": "no live host has {1} plugged: `vmpool pbd-plug`.",
    "SR_HAS_PBD": "{1} is still plugged: `vmpool pbd-unplug` on every host first.",
    "SR_NOT_EMPTY": "the SR still has disks: destroy them first, or forget the SR.",
    "SR_UNKNOWN_DRIVER": "there is no type of SR called {1}.",
    "VBD_CDS_MUST_BE_READONLY": "a CD can only be read: mode RO.",
    "VDI_IN_USE": "{1} is in use by a guest: halt it first.",
    "VDI_MISSING": "{2} is not in {1} any more: the last scan did not find it.",
    "VDI_READONLY": "{1} can only be read.",
    "TASK_CANCELLED": "the task was cancelled.",
    "UUID_INVALID": "there is no {1} with the uuid {2}: `vmpool {1:command} list` shows those there are.",
    "VALUE_NOT_SUPPORTED": "{1} cannot be {2}: {3}.",
    "VM_BAD_POWER_STATE": "{1} is {3}, and this needs it {2}.",
    "VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT": "{1} did not react to the request to shut down: `vmpool vm stop --force` "
    "pulls its plug.",
    "VM_HVM_REQUIRED": "{1} needs hardware virtualisation, which the host lacks.",
    "VM_HAS_NO_SUSPEND_VDI": "its saved memory is not on that host: resume it where it was suspended, or share the hosts'"
    " suspend_folder.",
    "VM_NO_SUSPEND_SR": "its host has no folder for saved memory: set suspend_folder in the agent's configuration.",
    "VM_INCOMPATIBLE_WITH_THIS_HOST": "{1} cannot run on {2}: {3}.",
    "VM_IS_IMMOBILE": "{1} says it must not be migrated (platform nomigrate or nested-virt).",
    "VM_IS_SNAPSHOT": "{1} is a snapshot.",
    "VM_IS_TEMPLATE": "{1} is a template: it can be cloned, not run.",
    "VM_LACKS_FEATURE": "the guest in {1} does not support this; `--force` needs no help from it.",
    "VM_MIGRATE_FAILED": "{1} stayed where it was: {4}.",
    "VM_REQUIRES_NETWORK": "{1} needs the network {2}, whose bridge the host does not have: choose "
    "another host.",
    "BRIDGE_NAME_EXISTS": "another network has the bridge {1} already.",
    "DEVICE_ALREADY_DETACHED": "the guest does not have {1}.",
    "DEVICE_DETACH_TIMEOUT": "the guest does not let go of {2}; it does when it stops.",
    "DEVICE_ALREADY_EXISTS": "the VM has a device {1} already.",
    "INVALID_DEVICE": "{1} is no device number: see VM.get_allowed_VIF_devices.",
    "MAC_INVALID": "{1!r} is no address for an interface; it looks like 02:00:00:00:00:01.",
    "MAC_STILL_EXISTS": "another interface of this VM has the address {1}.",
    "NETWORK_CONTAINS_PIF": "hosts have this network: it goes when their bridge does.",
    "NETWORK_CONTAINS_VIF": "running VMs are on this network: unplug their interfaces first.",
    "VM_REQUIRES_SR": "{1} needs storage that the host does not see: choose another host.",
    "VM_SHUTDOWN_TIMEOUT": "{1} did not shut down within {2} s: `vmpool vm stop --force` pulls its plug.",
    "VM_UNSAFE_BOOT": "{1} may still run on another host: it is not started until that is ruled out.",
}


class _Word(str):
    """A word of an error, which knows how to be shown."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        match spec:
            case "size":
                return format_size(int(self)) if self.isdecimal() else str(self)
            case "command":
                return (
                    self.lower()
                    if self.lower() in {"vm", "host", "task"}
                    else f"{self.lower()}-list or"
                )
            case _:
                return str(self)


def explain(refusal: Refused) -> str:
    """Give the code and what to do, in one line."""
    words = [_Word(refusal.names.get(word, word)) for word in refusal.description]
    known = ADVICE.get(refusal.code)
    if known is not None:
        try:
            return _one_line(f"{refusal.code}: {known.format(*words)}")
        except IndexError:
            pass
    said = " ".join(words[1:])
    return _one_line(
        f"{refusal.code}: the pool refused this{f' ({said})' if said else ''};"
        " `vmpool audit` shows what happened before."
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())
