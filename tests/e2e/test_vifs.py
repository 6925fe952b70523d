"""Network interfaces as a client meets them: made, started with, plugged and unplugged, over the wire."""

from typing import Any

from tests.support.pool import RunningPool, refusal, until, vm_record


def vif(device: str, network: str, vm: str) -> dict[str, Any]:
    record = {"device": device, "network": network, "VM": vm, "MAC": "", "MTU": "1500"}
    return {**record, "other_config": {}, "qos_algorithm_type": "", "qos_algorithm_params": {}}


def test_a_guest_starts_with_its_interfaces_and_gets_another_one_while_it_runs(
    pool: RunningPool,
) -> None:
    with pool.session() as api:
        networks = api.network.get_all_records_where('field "bridge" = "xenbr0"')
        ((network, record),) = networks.items()
        assert len(record["PIFs"]) == len(api.host.get_all())
        vm = api.VM.create(vm_record("with interfaces"))
        first, second = (api.VIF.create(vif(device, network, vm)) for device in ("0", "1"))
        assert api.VM.get_VIFs(vm) == [first, second]
        assert refusal(api.VIF.plug, first)[0] == "VM_BAD_POWER_STATE"

        api.VM.start(vm, False, False)
        assert api.VIF.get_currently_attached(first) is True
        assert refusal(api.VIF.plug, first) == ["DEVICE_ALREADY_ATTACHED", first]

        api.VIF.unplug(second)
        assert api.VIF.get_currently_attached(second) is False
        assert api.VIF.get_allowed_operations(second) == ["plug"]
        task = api.Async.VIF.plug(second)
        until(lambda: api.task.get_status(task) == "success", what="the plug")
        assert api.VIF.get_currently_attached(second) is True

        api.VM.hard_shutdown(vm)
        assert api.VIF.get_currently_attached(first) is False
        api.VM.destroy(vm)
        assert api.network.get_VIFs(network) == []
