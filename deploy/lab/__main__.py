"""Bring a lab up and down by hand: python -m deploy.lab up --hosts 3 --data DIR."""

import argparse
import sys
from pathlib import Path

from deploy.lab.guest_image import COMMAND_LINE, GuestImageUnavailable, build_guest_image
from deploy.lab.hosts import Lab, LabConfig, default_cache
from deploy.lab.preflight import LabFailed, LabUnavailable


def main() -> int:
    """Carry out one command; 1 and a sentence if it cannot be done."""
    arguments = _parser().parse_args()
    try:
        match arguments.command:
            case "up":
                config = LabConfig(data=arguments.data, hosts=arguments.hosts, name=arguments.name)
                _show(Lab.up(config))
            case "down":
                Lab.open(arguments.data).down()
            case "image":
                image = build_guest_image(default_cache())
                print(f"kernel {image.kernel}\ninitrd {image.initrd}\ncmdline {COMMAND_LINE}")
            case _:
                _show(Lab.open(arguments.data))
    except (LabUnavailable, LabFailed, GuestImageUnavailable) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.lab", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status", "image"))
    parser.add_argument("--data", type=Path, default=Path("lab-data"), help="the lab's folder")
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--name", default="vmpool", help="tells labs on one machine apart")
    return parser


def _show(lab: Lab) -> None:
    for host in lab.hosts:
        state = "answers" if lab.answers(host) else "does not answer"
        print(f"{host.name} {host.address} {host.netns} {state}: {host.migrate_uri}")


if __name__ == "__main__":
    sys.exit(main())
