"""What a host's processor is, from libvirt's capabilities XML."""

import defusedxml.ElementTree


def read_host_cpu(capabilities: str) -> dict[str, str]:
    """Give vendor, modelname and features of the host's processor; empty where libvirt does not say."""
    cpu = defusedxml.ElementTree.fromstring(capabilities).find("host/cpu")
    if cpu is None:
        return {"vendor": "", "modelname": "", "features": ""}
    features = (feature.get("name", "") for feature in cpu.findall("feature"))
    return {
        "vendor": cpu.findtext("vendor", ""),
        "modelname": cpu.findtext("model", ""),
        "features": " ".join(sorted(features)),
    }


def cpu_flags(cpu: dict[str, str]) -> dict[str, str]:
    """Give what a VM must remember of the processor it was booted on."""
    return {"vendor": cpu["vendor"], "features": cpu["features"]}
