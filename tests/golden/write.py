"""Write the golden files that are missing: `python -m tests.golden.write`. What is there is never written again."""

import json
import sys
from pathlib import Path
from typing import Any, Final

from pool_master.core.event_codec import EVENT_VERSION_DEFAULT, event_to_plain
from pool_master.core.upcast import EVENT_VERSIONS
from tests.golden.samples import samples

FOLDER: Final = Path(__file__).parent / "events"


def path_of(name: str) -> Path:
    """Give where the golden file of an event type's present version lies."""
    return FOLDER / f"{name}.v{EVENT_VERSIONS.get(name, EVENT_VERSION_DEFAULT)}.json"


def text_of(plain: list[Any]) -> str:
    """Give an event as its golden file holds it."""
    return json.dumps(plain, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Write what is missing, and say what."""
    FOLDER.mkdir(exist_ok=True)
    for name, recorded in samples().items():
        path = path_of(name)
        if not path.exists():
            path.write_text(text_of(event_to_plain(recorded)), encoding="utf-8")
            sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
