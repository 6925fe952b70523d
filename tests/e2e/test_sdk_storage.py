"""Disks through XenAPI's SDK: made, given to VMs, cloned, copied and destroyed, with nothing left in the end."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_sdk_tasks import ended
from tests.support.pool import RunningPool, refusal, running_pool, vm_record

MIB = 1 << 20
NULL = "OpaqueRef:NULL"


def an_sr(xenapi: Any, location: str, type_name: str) -> str:
    """An SR on the first host; of type nfs, on all."""
    host = xenapi.host.get_all()[0]
    config = {"location": location}
    made: str = xenapi.SR.create(host, config, "0", "disks", "", type_name, "user", False, {})
    return made


def a_disk(xenapi: Any, sr: str, **changes: Any) -> str:
    """A disk of 4 MiB."""
    record = {
        "SR": sr,
        "name_label": "disk",
        "virtual_size": str(4 * MIB),
        "type": "user",
        "sharable": False,
        "read_only": False,
        "other_config": {},
        **changes,
    }
    made: str = xenapi.VDI.create(record)
    return made


def plugged(xenapi: Any, vm: str, vdi: str) -> str:
    """The disk as the VM's next device."""
    made: str = xenapi.VBD.create(
        {
            "VM": vm,
            "VDI": vdi,
            "userdevice": "autodetect",
            "bootable": False,
            "mode": "RW",
            "type": "Disk",
            "empty": False,
            "other_config": {},
            "qos_algorithm_type": "",
            "qos_algorithm_params": {},
        }
    )
    return made


def the_life_of_disks(xenapi: Any, sr: str) -> None:
    """A VM with a disk is started, cloned and copied; all of it is destroyed again."""
    vm, other = (xenapi.VM.create(vm_record(name)) for name in ("with-a-disk", "other"))
    vdi = a_disk(xenapi, sr)
    vbd = plugged(xenapi, vm, vdi)
    plugged(xenapi, other, vdi)
    xenapi.VM.start(vm, False, False)
    assert xenapi.VBD.get_currently_attached(vbd)
    assert xenapi.VBD.get_device(vbd) == "vda"
    assert refusal(xenapi.VM.start, other, False, False) == ["VDI_IN_USE", vdi, "attach"]
    assert refusal(xenapi.VDI.destroy, vdi) == ["VDI_IN_USE", vdi, "destroy"]
    xenapi.VM.hard_shutdown(vm)

    twin = xenapi.VM.clone(vm, "twin")
    task = ended(xenapi, xenapi.Async.VM.copy(vm, "copy", NULL))
    assert task["status"] == "success", task
    (copy,) = xenapi.VM.get_by_name_label("copy")
    assert (task["status"], task["result"]) == ("success", f"<value>{copy}</value>")
    vms = [vm, other, twin, copy]
    disks = {xenapi.VBD.get_VDI(x) for each in vms for x in xenapi.VM.get_VBDs(each)}
    assert len(disks) == 3
    xenapi.VM.start(twin, False, False)
    xenapi.VM.start(vm, False, False)
    for each in (twin, vm):
        xenapi.VM.hard_shutdown(each)
    for each in vms:
        xenapi.VM.destroy(each)
    assert xenapi.VBD.get_all() == []
    for each in disks:
        xenapi.VDI.destroy(each)
    assert xenapi.SR.get_VDIs(sr) == []
    for pbd in xenapi.SR.get_PBDs(sr):
        xenapi.PBD.unplug(pbd)
    xenapi.SR.destroy(sr)
    assert (xenapi.SR.get_all(), xenapi.PBD.get_all()) == ([], [])


def test_disks_live_and_go_on_a_shared_sr(simulated_pool: RunningPool) -> None:
    with simulated_pool.session() as xenapi:
        the_life_of_disks(xenapi, an_sr(xenapi, "/srv/disks", "nfs"))


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img")
def test_disks_are_files_and_all_of_them_go(tmp_path: Path) -> None:
    folder = tmp_path / "sr"
    with running_pool(tmp_path, hosts=1, hypervisor="test") as pool, pool.session() as xenapi:
        sr = an_sr(xenapi, str(folder), "file")
        vdi = a_disk(xenapi, sr)
        name = xenapi.VDI.get_location(vdi)
        said = subprocess.run(
            ["qemu-img", "check", "-f", "qcow2", str(folder / name)],
            capture_output=True,
            check=False,
        )
        assert said.returncode == 0
        xenapi.VDI.destroy(vdi)
        the_life_of_disks(xenapi, sr)
    assert [path.name for path in folder.iterdir()] == []
