"""A running guest is changed, suspended and resumed, by a real XenAPI client."""

from typing import Any

from tests.e2e.conftest import MakeVm

MIB = 1 << 20


def test_a_running_vm_is_changed_suspended_and_resumed(xenapi: Any, make_vm: MakeVm) -> None:
    vm = make_vm(
        VCPUs_max="2",
        memory_static_min=str(32 * MIB),
        memory_dynamic_min=str(32 * MIB),
        memory_dynamic_max=str(64 * MIB),
        memory_static_max=str(64 * MIB),
    )
    xenapi.VM.start(vm, False, False)

    xenapi.VM.set_VCPUs_number_live(vm, "2")
    xenapi.VM.add_to_VCPUs_params_live(vm, "weight", "512")
    xenapi.VM.set_memory_dynamic_max_live(vm, str(48 * MIB))
    xenapi.VM.set_memory_dynamic_min_live(vm, str(48 * MIB))
    xenapi.VM.send_sysrq(vm, "h")
    xenapi.VM.send_trigger(vm, "nmi")

    record = xenapi.VM.get_record(vm)
    metrics = xenapi.VM_metrics.get_record(record["metrics"])
    assert (record["VCPUs_at_startup"], metrics["VCPUs_number"]) == ("2", "2")
    assert record["VCPUs_params"] == {"weight": "512"}
    assert (record["memory_target"], metrics["memory_actual"]) == (str(48 * MIB),) * 2
    assert xenapi.VM.get_boot_record(vm)["VCPUs_at_startup"] == "1"

    xenapi.VM.suspend(vm)
    assert xenapi.VM.get_power_state(vm) == "Suspended"
    xenapi.VM.resume(vm, True, False)
    assert xenapi.VM.get_power_state(vm) == "Paused"
    xenapi.VM.unpause(vm)
    xenapi.VM.suspend(vm)
    (host, *_) = xenapi.host.get_all()
    xenapi.VM.resume_on(vm, host, False, False)
    assert (xenapi.VM.get_power_state(vm), xenapi.VM.get_resident_on(vm)) == ("Running", host)
    xenapi.VM.shutdown(vm)
    assert xenapi.VM.get_power_state(vm) == "Halted"
