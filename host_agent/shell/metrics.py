"""What an agent counts, for Prometheus.

A registry of its own, because a simulator runs many agents.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge


class Metrics:
    """The counters of one agent."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.commands = Counter(
            "vmpool_agent_commands",
            "Commands by what became of them: succeeded, failed, repeated, stale",
            ["outcome"],
            registry=self.registry,
        )
        self.undecodable = Counter(
            "vmpool_agent_undecodable",
            "Messages or commands that this agent cannot read",
            registry=self.registry,
        )
        self.reports = Counter(
            "vmpool_agent_reports", "Reports stored by the stream", registry=self.registry
        )
        self.fences = Counter(
            "vmpool_agent_fences",
            "Times the agent killed its guests for want of a lease",
            registry=self.registry,
        )
        self.lease_valid = Gauge(
            "vmpool_agent_lease_valid", "1 while the lease holds", registry=self.registry
        )
