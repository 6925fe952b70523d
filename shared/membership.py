"""Who a host thinks its peers are, in a few bytes that fit into each request for a lease."""

import hashlib
from collections.abc import Iterable
from typing import Final

DIGEST_CHARACTERS: Final = 16


def peers_digest(uuids: Iterable[str]) -> str:
    """Give the same short text for the same hosts, in whatever order."""
    joined = "\n".join(sorted(uuids))
    return hashlib.sha256(joined.encode()).hexdigest()[:DIGEST_CHARACTERS]
