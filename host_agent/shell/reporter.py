"""Says what the host saw: journal first, then the stream, in order.

Rules: a report gets its number when it is journaled and is published only once that is durable, so
no number is ever given twice. One batch is under way at a time, and is published again, unchanged
and under the same message id, until the stream has it.
"""

from collections.abc import Callable
from itertools import islice
from typing import Final

import anyio
import structlog

from host_agent.core.journal_state import (
    CommandEnded,
    JournalChange,
    ReportMade,
    ReportsDelivered,
)
from host_agent.shell.bell import Bell
from host_agent.shell.inventory import Touched
from host_agent.shell.journal import Journal
from host_agent.shell.metrics import Metrics
from shared.bus import Bus, BusUnavailable
from shared.codec import encode
from shared.protocol import (
    CommandFailed,
    CommandProgressed,
    CommandSucceeded,
    HostInventory,
    HostReport,
    ReportBatch,
    ReportBody,
)

RETRY_PAUSE_S: Final = 0.5
PUBLISH_WAIT_S_MAX: Final = 5.0

log = structlog.get_logger(__name__)


class Reporter:
    """Numbers, journals and publishes the reports of one host."""

    def __init__(
        self,
        *,
        host: str,
        subject: str,
        bus: Bus,
        journal: Journal,
        metrics: Metrics,
        touched: Touched,
        wall_clock: Callable[[], int],
        batch_reports_max: int,
    ) -> None:
        self._host = host
        self._subject = subject
        self._bus = bus
        self._journal = journal
        self._metrics = metrics
        self._touched = touched
        self._wall_clock = wall_clock
        self._batch_reports_max = batch_reports_max
        self._durable = Bell()
        self._delivered = Bell()

    async def run(self) -> None:
        """Publish for ever."""
        while True:
            batch = self._next_batch()
            if not batch:
                await self._durable.wait()
                continue
            await self._publish(batch)

    async def report(self, body: ReportBody) -> int:
        """Journal a report and give its number; one that only repeats a waiting one is left out."""
        waiting = self._same_waiting(body)
        if waiting:
            return waiting
        return await self._keep([], body)

    async def report_end(self, outcome: CommandSucceeded | CommandFailed) -> int:
        """Journal a command's end together with its report, in one flush; give its number."""
        return await self._keep([CommandEnded(outcome=outcome)], outcome)

    async def repeat(self, outcome: CommandSucceeded | CommandFailed) -> int:
        """Say an outcome again; where it still waits to be published, that will do."""
        for report in self._journal.state.undelivered.values():
            if report.body == outcome:
                return report.sequence
        return await self._keep([], outcome)

    async def wait_delivered(self, sequence: int) -> None:
        """Wait until the stream has stored the report with this number."""
        while self._journal.state.delivered_sequence < sequence:
            await self._delivered.wait()

    async def _keep(self, changes: list[JournalChange], body: ReportBody) -> int:
        state = self._journal.state
        report = HostReport(
            host=self._host,
            journal=state.journal,
            epoch=state.epoch,
            sequence=state.last_sequence + 1,
            time_us=self._wall_clock(),
            body=body,
        )
        self._touched.note(body)
        await self._journal.write(*changes, ReportMade(report=report))
        self._durable.ring()
        return report.sequence

    def _same_waiting(self, body: ReportBody) -> int:
        """Find a waiting report that makes this one needless.

        Nothing may pile up while the bus is down.
        """
        state = self._journal.state
        for report in state.undelivered.values():
            match (body, report.body):
                case (CommandProgressed(command_id=new), CommandProgressed(command_id=old)):
                    is_same = new == old
                case (HostInventory(), HostInventory()):
                    # What changed after it was taken is reported after it.
                    is_same = report.epoch == state.epoch
                case _:
                    is_same = False
            if is_same:
                return report.sequence
        return 0

    def _next_batch(self) -> tuple[HostReport, ...]:
        durable = self._journal.durable_sequence
        waiting = self._journal.state.undelivered.values()
        first = islice(waiting, self._batch_reports_max)
        return tuple(report for report in first if report.sequence <= durable)

    async def _publish(self, reports: tuple[HostReport, ...]) -> None:
        first, last = reports[0], reports[-1]
        message_id = f"{first.journal}-{first.sequence}-{last.sequence}"
        data = encode(ReportBatch(reports=reports))
        while True:
            try:
                await self._bus.publish(
                    self._subject, data, message_id=message_id, timeout_s=PUBLISH_WAIT_S_MAX
                )
                break
            except BusUnavailable as error:
                log.info("reports.publish_again", why=str(error), message_id=message_id)
            await anyio.sleep(RETRY_PAUSE_S)
        # Lost with the process, this costs a second delivery, which the master recognises.
        self._journal.write_behind(ReportsDelivered(sequence=last.sequence))
        self._metrics.reports.inc(len(reports))
        self._delivered.ring()
