"""When a host that has just joined may have its first lease.

One job: keep the proof of a host's death a proof when the pool grows.

Rules: a host without a lease keeps its guests while every peer *that it knows* has promised to start nothing. A newcomer
that it does not know has promised nothing, so it may run guests only once nobody can be keeping some behind its back: every
other host either knows it by now, or has surely been made to kill its guests, because a peer that it does know has a lease.
"""

from collections.abc import Callable

from pool_master.core.host import Host
from pool_master.core.pool import Pool


def may_have_first_lease(
    pool: Pool,
    newcomer: Host,
    *,
    knows_all: Callable[[str], bool],
    is_steady: Callable[[str], bool],
) -> bool:
    """Whether nothing speaks against a lease for this host.

    `knows_all` says of a host's uuid whether it has said that it knows the pool as it is; `is_steady` whether it has
    held leases for so long that any host which asks it has given up by now.
    """
    if has_lived(pool, newcomer):
        return True
    others = [x for x in pool.hosts.values() if x.ref != newcomer.ref and has_lived(pool, x)]
    return all(
        knows_all(other.uuid)
        or (
            not pool.is_live(other.ref)
            and any(is_steady(witness.uuid) for witness in others if witness.ref != other.ref)
        )
        for other in others
    )


def has_lived(pool: Pool, host: Host) -> bool:
    """Whether the host can ever have been given a guest."""
    return pool.is_live(host.ref) or host.lost_count > 0
