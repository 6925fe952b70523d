"""The subjects and streams of one pool on NATS."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subjects:
    """Names for the pool called `pool` (letters, digits, `-`)."""

    pool: str

    @property
    def log(self) -> str:
        """The commit records; only masters may publish here."""
        return f"vmpool.{self.pool}.log"

    @property
    def log_stream(self) -> str:
        """The stream behind `log`."""
        return f"vmpool-{self.pool}-log"

    def command(self, host_uuid: str) -> str:
        """Commands for one host."""
        return f"vmpool.{self.pool}.host.{host_uuid}.command"

    @property
    def every_command(self) -> str:
        """Commands for every host."""
        return f"vmpool.{self.pool}.host.*.command"

    @property
    def command_stream(self) -> str:
        """The stream behind `command`."""
        return f"vmpool-{self.pool}-commands"

    def report(self, host_uuid: str) -> str:
        """Reports of one host."""
        return f"vmpool.{self.pool}.host.{host_uuid}.report"

    @property
    def every_report(self) -> str:
        """Reports of every host."""
        return f"vmpool.{self.pool}.host.*.report"

    @property
    def report_stream(self) -> str:
        """The stream behind `report`."""
        return f"vmpool-{self.pool}-reports"

    def lease(self, host_uuid: str) -> str:
        """Lease requests of one host (request and reply, no stream)."""
        return f"vmpool.{self.pool}.host.{host_uuid}.lease"

    @property
    def every_lease(self) -> str:
        """Lease requests of every host."""
        return f"vmpool.{self.pool}.host.*.lease"

    def event(self, class_name: str, object_uuid: str, event_type: str) -> str:
        """One JSON message per event, for everybody."""
        return f"vmpool.{self.pool}.event.{class_name}.{object_uuid}.{event_type}"

    @property
    def every_event(self) -> str:
        """Every event of the pool."""
        return f"vmpool.{self.pool}.event.>"

    @property
    def event_stream(self) -> str:
        """The stream behind `event`."""
        return f"vmpool-{self.pool}-events"

    @property
    def leader_bucket(self) -> str:
        """The KV bucket that holds the leadership key."""
        return f"vmpool-{self.pool}-leader"


def host_of(subject: str) -> str:
    """Give the host's uuid in a host's subject."""
    return subject.split(".")[3]
