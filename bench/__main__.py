"""Run all benchmarks and print each figure beside its floor: python -m bench [--json FILE]."""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import append, in_memory, operations, records
from bench.figures import Figure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    console = Console()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="vmpool-bench-") as folder:
        data = Path(folder)
        for name in ("log", "simulated", "test", "records"):
            (data / name).mkdir()
        console.print("append…")
        figures.append(append.run_append(data / "log"))
        console.print("replay, memory…")
        figures += [in_memory.replay(), in_memory.memory_per_vm()]
        console.print("operations on simulated hosts…")
        figures += operations.simulated(data / "simulated", append_ms=figures[0].value)
        console.print("operations on libvirt's test driver…")
        figures += operations.test_driver(data / "test")
        console.print("records of 10 000 VMs…")
        figures += records.records(data / "records")
    console.print(_table(figures))
    if arguments.json:
        rows = [dataclasses.asdict(figure) | {"ratio": figure.ratio} for figure in figures]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _table(figures: list[Figure]) -> Table:
    table = Table()
    for column in ("figure", "value", "floor", "times the floor", "goal"):
        table.add_column(column)
    for figure in figures:
        goal = (
            "" if figure.goal is None else f"{figure.goal:,.6g} {'✓' if figure.is_reached else '✗'}"
        )
        table.add_row(
            figure.name,
            f"{figure.value:,.4g} {figure.unit}",
            f"{figure.floor:,.4g} ({figure.floor_name})",
            f"{figure.ratio:.2f}",
            goal,
        )
    return table


if __name__ == "__main__":
    main()
