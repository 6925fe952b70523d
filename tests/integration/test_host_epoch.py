"""What was sent to a host before it was given up must not run after it is back: its VM may run elsewhere by then."""

import anyio

from host_agent.core.admit import Knowledge, Run, Stale, admit
from shared.protocol import StartDomain
from simulator.virtual_time import virtual
from tests.support.agents import HOST, command, domain, stage

VM = "11111111-1111-1111-1111-111111111111"


def test_a_command_from_before_the_host_was_given_up_is_stale() -> None:
    start = command("start", StartDomain(config=domain(VM)), vm_uuid=VM)
    assert admit(None, start, Knowledge(highest_term=1, may_start=True)) == Run()
    given_up = Knowledge(highest_term=1, host_epoch=1, may_start=True)
    assert admit(None, start, given_up) == Stale("host epoch")


@virtual
async def test_a_start_that_lay_in_the_stream_while_its_host_was_given_up_never_runs() -> None:
    async with stage() as pool:
        async with pool.agent():
            await anyio.sleep(3.0)
        await pool.leader.send(HOST, command("old", StartDomain(config=domain(VM)), vm_uuid=VM))
        pool.leader.host_epoch = 1
        async with pool.agent():
            await anyio.sleep(30.0)
            assert pool.running() == []
            await pool.leader.send(
                HOST, command("old again", StartDomain(config=domain(VM)), vm_uuid=VM)
            )
            await anyio.sleep(5.0)
            assert pool.running() == []
