"""Both journals keep what they promise: order, durability, one flush for many, what a restart must know."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
import anyio
import anyio.lowlevel
import pytest

from host_agent.core.journal_state import (
    CommandBegun,
    CommandEnded,
    IncarnationSeen,
    NoteKept,
    ReportMade,
    ReportsDelivered,
    TermSeen,
)
from host_agent.shell.journal import Journal, JournalDamagedError, SqliteJournal, open_journal
from shared.protocol import CommandProgressed, CommandSucceeded, HostReport
from simulator.memory_journal import MemoryJournal, MemoryJournalDisk, open_memory_journal

Opener = Callable[[], Awaitable[Journal]]


@asynccontextmanager
async def opened(opener: Opener) -> AsyncIterator[Journal]:
    journal = await opener()
    try:
        yield journal
    finally:
        await journal.close()


@pytest.fixture(params=["sqlite", "memory"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Open the same journal again and again."""
    disk = MemoryJournalDisk("disk", commands_max=5)

    async def sqlite() -> SqliteJournal:
        return await open_journal(tmp_path / "journal", commands_max=5, changes_max=20)

    async def memory() -> MemoryJournal:
        return await open_memory_journal(disk)

    return sqlite if request.param == "sqlite" else memory


def report(journal: Journal) -> ReportMade:
    state = journal.state
    return ReportMade(
        report=HostReport(
            host="h",
            journal=state.journal,
            epoch=state.epoch,
            sequence=state.last_sequence + 1,
            time_us=0,
            body=CommandProgressed(command_id="c", task="t", progress=0.5),
        )
    )


def ended(command_id: str) -> CommandEnded:
    return CommandEnded(
        outcome=CommandSucceeded(command_id=command_id, task="t", vm_uuid="v", incarnation=1)
    )


async def test_a_restart_keeps_the_journals_name_and_counts_itself(opener: Opener) -> None:
    async with opened(opener) as journal:
        name, epoch = journal.state.journal, journal.state.epoch
    async with opened(opener) as journal:
        assert (journal.state.journal, journal.state.epoch) == (name, epoch + 1)


async def test_what_was_written_is_there_after_a_restart(opener: Opener) -> None:
    async with opened(opener) as journal:
        await journal.write(
            TermSeen(term=7),
            CommandBegun(command_id="begun"),
            ended("done"),
            IncarnationSeen(vm_uuid="v", incarnation=3),
            NoteKept(name="n", value="x"),
            (first := report(journal)),
        )
        second = report(journal)
        await journal.write(second, ReportsDelivered(sequence=first.report.sequence))
    async with opened(opener) as journal:
        state = journal.state
        assert state.highest_term == 7
        assert state.incarnations == {"v": 3}
        assert state.notes == {"n": "x"}
        begun, done = state.entry("begun"), state.entry("done")
        assert begun is not None
        assert begun.outcome is None
        assert done is not None
        assert done.outcome is not None
        assert list(state.undelivered) == [second.report.sequence]
        assert journal.durable_sequence >= second.report.sequence


async def test_numbers_are_never_given_twice_even_where_all_reports_were_delivered(
    opener: Opener,
) -> None:
    async with opened(opener) as journal:
        made = report(journal)
        for _ in range(30):
            made = report(journal)
            await journal.write(made)
            await journal.write(ReportsDelivered(sequence=made.report.sequence))
    async with opened(opener) as journal:
        # Even numbers that a power cut took off the journal's end are not given out again.
        assert report(journal).report.sequence > made.report.sequence + 1_000_000


async def test_old_commands_are_forgotten_but_no_incarnation_and_no_term(opener: Opener) -> None:
    async with opened(opener) as journal:
        for number in range(50):
            await journal.write(
                TermSeen(term=1),
                CommandBegun(command_id=f"c{number}"),
                IncarnationSeen(vm_uuid=f"v{number}", incarnation=number + 1),
            )
            await journal.write(ended(f"c{number}"))
    async with opened(opener) as journal:
        assert [*journal.state.ended] == [f"c{number}" for number in range(45, 50)]
        assert not journal.state.begun
        assert len(journal.state.incarnations) == 50


async def test_a_report_counts_as_durable_only_after_its_flush(opener: Opener) -> None:
    async with opened(opener) as journal:
        before = journal.durable_sequence
        journal.write_behind(report(journal))
        assert journal.state.last_sequence == before + 1
        assert journal.durable_sequence == before
        await journal.write()
        assert journal.durable_sequence == before + 1


async def test_many_writers_are_all_durable(opener: Opener) -> None:
    async with opened(opener) as journal, anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(journal.write, IncarnationSeen(vm_uuid=f"v{number}", incarnation=1))
    async with opened(opener) as journal:
        assert len(journal.state.incarnations) == 100


async def test_writers_that_wait_share_one_flush(tmp_path: Path) -> None:
    async with opened(
        lambda: open_journal(tmp_path / "j", commands_max=5, changes_max=1_000)
    ) as journal:
        assert isinstance(journal, SqliteJournal)
        before = journal.flushes
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                change = IncarnationSeen(vm_uuid=f"v{number}", incarnation=1)
                tasks.start_soon(journal.write, change)
        assert journal.flushes - before <= 3


async def test_a_writer_that_is_cancelled_loses_nobodys_changes(tmp_path: Path) -> None:
    def opener() -> Awaitable[Journal]:
        return open_journal(tmp_path / "j", commands_max=5, changes_max=25)

    async with opened(opener) as journal:
        for number in range(20):
            await journal.write(IncarnationSeen(vm_uuid=f"old{number}", incarnation=1))
        async with anyio.create_task_group() as tasks:
            # This flush passes the bound: it deletes everything before it writes it anew.
            many = (IncarnationSeen(vm_uuid=f"v{number}", incarnation=1) for number in range(20))
            tasks.start_soon(journal.write, *many)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        await journal.write(TermSeen(term=1))
    async with opened(opener) as journal:
        assert len(journal.state.incarnations) == 40


async def test_the_file_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "j"
    async with opened(lambda: open_journal(path, commands_max=5, changes_max=20)) as journal:
        for number in range(500):
            await journal.write(ended(f"c{number}"))
    async with (
        aiosqlite.connect(path) as connection,
        connection.execute("SELECT count(*) FROM changes") as rows,
    ):
        row = await rows.fetchone()
        assert row is not None
        assert row[0] <= 21


async def test_an_agent_that_dies_loses_only_what_was_not_flushed() -> None:
    disk = MemoryJournalDisk("disk")
    journal = await open_memory_journal(disk)
    await journal.write(TermSeen(term=3))
    journal.write_behind(TermSeen(term=9))
    again = await open_memory_journal(disk)
    assert again.state.highest_term == 3


async def test_a_damaged_journal_is_refused_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"this is not a journal" * 1_000)
    with pytest.raises(JournalDamagedError, match="cannot be read"):
        await open_journal(path, commands_max=5, changes_max=20)


async def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    async with aiosqlite.connect(path) as connection:
        await connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalDamagedError, match="newer"):
        await open_journal(path, commands_max=5, changes_max=20)
