"""Saved guests: files of libvirt's that hold a domain's memory and definition.

Rules: blocking; called by LibvirtConnection, which translates libvirt's errors. A file that libvirt has not written to its
end is no image. libvirt's test driver cannot be given another definition at a restore, so its file is changed before.
"""

from pathlib import Path
from typing import Any, Final

from host_agent.core.domain_xml import read_metadata

_PAUSED: Final = 4


def save(domain: Any, path: Path) -> None:
    """Write the domain to a file; it is gone then."""
    domain.saveFlags(str(path), None, 0)


def image_xml(connection: Any, path: Path) -> str:
    """Give the definition in an image."""
    return str(connection.saveImageGetXMLDesc(str(path), 0))


def is_image_of(connection: Any, path: Path, vm_uuid: str) -> bool:
    """Say whether there is a whole image of this VM."""
    if not path.exists():
        return False
    metadata = read_metadata(image_xml(connection, path))
    return metadata is not None and metadata.vm_uuid == vm_uuid


def restore(connection: Any, path: Path, xml: str, *, driver: str) -> None:
    """Make a domain of an image, standing still where the driver can."""
    if driver == "test":
        connection.saveImageDefineXML(str(path), xml, 0)
        connection.restoreFlags(str(path), None, 0)
    else:
        connection.restoreFlags(str(path), xml, _PAUSED)
