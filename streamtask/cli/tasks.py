"""`streamtask tasks`: one call of a task, by its id: watch it, or have it not run."""

from __future__ import annotations

import click

from streamtask.cli import output
from streamtask.cli.commands import CommandGroup
from streamtask.cli.connection import ask
from streamtask.cli.options import json_option, server_options
from streamtask.inspector import Inspector
from streamtask.outcomes import CANCELLED, ending_of
from streamtask.results import ResultReader
from streamtask.rows import FoundWorkflow
from streamtask.settings import CANCELLED_FOR, RESULT_TTL
from streamtask.trail import follow
from streamtask.transport.values import Result

#: Entries of each stream that a call is looked for among.
_DEPTH = 20_000


@click.group(cls=CommandGroup)
def tasks() -> None:
    """One call of a task, by its id."""


@tasks.command()
@click.argument("id_", metavar="ID")
@click.option("--stream", help="Where it is; otherwise it is looked for.")
@server_options
@json_option
def watch(id_: str, stream: str | None, reference: str | None, broker: str | None, as_json: bool) -> None:
    """Show how far a call is, as it says so, until it has ended. Exit code 1: it failed, or was cancelled.

    Only a task that keeps its result can be seen to end.
    """

    async def until_the_end(inspector: Inspector) -> bytes:
        place = stream or await _stream_of(inspector, id_)
        # Who waits outlasts every trouble; what this user may not do, or a server that is away, is told at once.
        await inspector.transport.results.progress(place, id_, after="0", wait=0.0)
        reader = ResultReader(inspector.transport.results)
        try:
            async for progress in reader.progress(place, id_):
                if not as_json:
                    output.say(f"{progress.fraction:4.0%}  {progress.message}".rstrip())
            return await reader.wait(place, id_, timeout=None)
        finally:
            await reader.close()

    ending = ending_of(ask(reference, broker, until_the_end))
    if as_json:
        output.print_json({"event_id": id_, **output.row(ending)})
    else:
        output.print_fields({"event_id": id_, **output.row(ending)})
    if ending.state != "done":
        click.get_current_context().exit(1)


@tasks.command()
@click.argument("id_", metavar="ID")
@click.option("--stream", help="Where it is; otherwise it is looked for.")
@server_options
@json_option
def cancel(id_: str, stream: str | None, reference: str | None, broker: str | None, as_json: bool) -> None:
    """Have a call, or all of a workflow, not begun, or ended where it runs. Exit code 1: it has ended already.

    An async task is cancelled within a second and a process killed; a thread is waited for, its effects are dropped.
    """

    async def have_it_not_run(inspector: Inspector) -> bool:
        workflow = await inspector.find_workflow(id_, stream)
        if workflow is not None:
            return await _cancel_all_of(inspector, id_, workflow)
        place = stream or await _stream_of(inspector, id_)
        result = Result(id_, CANCELLED, RESULT_TTL)
        return await inspector.transport.cancellations.cancel(place, id_, result, ttl=CANCELLED_FOR)

    done = ask(reference, broker, have_it_not_run)
    if as_json:
        output.print_json({"event_id": id_, "cancelled": done})
    elif done:
        output.say(f"{id_} is cancelled.")
    else:
        output.remark(f"{id_} has ended already: `streamtask inspect event {id_}`, or `inspect workflow`, shows it.")
    if not done:
        click.get_current_context().exit(1)


async def _cancel_all_of(inspector: Inspector, id_: str, workflow: FoundWorkflow) -> bool:
    made_of = workflow.definition
    result = None if made_of.final_ttl is None else Result(made_of.final, CANCELLED, made_of.final_ttl)
    return await inspector.transport.workflows.cancel(workflow.stream, id_, result, ttl=CANCELLED_FOR)


async def _stream_of(inspector: Inspector, event_id: str) -> str:
    """The stream that an event is in. Raises NotFoundError."""
    return (await follow(inspector, event_id, depth=_DEPTH)).stream
