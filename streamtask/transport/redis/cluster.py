"""A Redis Cluster behind the interface of one connection: each command goes to the node that serves its key's slot.

What a node refused because a slot is elsewhere, or on its way, has not run, so it is sent again: to where MOVED and ASK
say, after a pause where a slot is half here and half there (TRYAGAIN) or nowhere (CLUSTERDOWN). What has got no reply
is never sent again: whether it ran is unknown, as on one server.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from streamtask.errors import ConfigurationError, TransportError
from streamtask.transport.redis.addresses import Address
from streamtask.transport.redis.client import Caller, Wire
from streamtask.transport.redis.connecting import Target, connect
from streamtask.transport.redis.hashslots import slot_of_command
from streamtask.transport.redis.line import COMMAND_TIMEOUT, Argument, ServerError, UnreachableError

#: A node, and whether it is asked although it does not serve the slot yet; places in the pipeline; what is sent.
_Part = tuple[tuple[Address, bool], list[int], list[Sequence[Argument]]]

#: Seconds for one node to say who serves what, before the next is asked.
_NODE_TIMEOUT = 1.0
#: Seconds between two questions who serves what.
_BETWEEN_QUESTIONS = 0.1
_ELSEWHERE = frozenset({"MOVED", "ASK"})
#: Refusals that pass: the slot is on its way, nobody serves it yet, or its node has just become or been another.
_PASSING = frozenset({"TRYAGAIN", "CLUSTERDOWN", "LOADING", "UNBLOCKED", "MASTERDOWN"})
#: What concerns all that was sent before it: WAIT is answered by a number, WAITAOF by two.
_WAITS = frozenset({"WAIT", "WAITAOF"})
#: A command that is sent from node to node more often than this meets nodes that do not agree yet.
_HOPS = 3
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.2


class Cluster:
    """What is known of a cluster: its nodes, and which one serves which slot. Shared by the wires of a transport."""

    def __init__(self, seeds: Sequence[Address], target: Target) -> None:
        self._target = target
        self._seeds = list(seeds)
        self._owners: dict[int, Address] = {}
        #: Every node that was heard of, replicas included: each can say who serves what.
        self._nodes: list[Address] = []
        self._is_in_doubt = True
        self._asked_at = -math.inf
        self._asking = asyncio.Lock()

    def wire_to(self, address: Address) -> Wire:
        """A connection of one's own to a node."""
        return Wire(partial(connect, self._target.at(address)))

    def owner(self, slot: int) -> Address | None:
        """The node that serves a slot, as far as is known."""
        return self._owners.get(slot)

    def any_owner(self) -> Address | None:
        """A node that serves something."""
        return random.choice(list(self._owners.values())) if self._owners else None  # noqa: S311 - any will do

    def moved(self, slot: int, address: Address) -> None:
        """A node has said who serves a slot."""
        self._owners[slot] = address

    def doubt(self) -> None:
        """A node cannot be reached, or serves nothing: what is known may be out of date."""
        self._is_in_doubt = True

    async def know(self) -> None:
        """Ask who serves what, unless that is known.

        Raises:
            ConfigurationError: the nodes are none of a cluster.
            UnreachableError: no node answers.
        """
        if not self._is_in_doubt:
            return
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if self._is_in_doubt and now - self._asked_at >= _BETWEEN_QUESTIONS:
                self._asked_at = now
                await self._ask_around()

    async def _ask_around(self) -> None:
        # In any order: a node that was cut off from the others answers too, and is wrong.
        nodes = random.sample(self._nodes, len(self._nodes))
        trouble: dict[Address, TransportError] = {}
        for address in dict.fromkeys([*nodes, *self._seeds]):
            try:
                ranges = await self._ask(address)
            except TransportError as error:
                trouble[address] = error
            else:
                self._learn(address, ranges)
                return
        told = "; ".join(f"{host}:{port}: {error}" for (host, port), error in trouble.items())
        if any("cluster support disabled" in str(error) for error in trouble.values()):
            raise ConfigurationError(
                f"the server is no node of a Redis Cluster ({told}); write its URL with redis:// (or rediss://) "
                "instead of redis+cluster://"
            )
        raise UnreachableError(f"no node of the cluster answers ({told})")

    async def _ask(self, address: Address) -> list[Any]:
        wire = self.wire_to(address)
        try:
            async with asyncio.timeout(_NODE_TIMEOUT):
                ranges: list[Any] = await wire.call("CLUSTER", "SLOTS")
        except TimeoutError:
            raise UnreachableError("no answer in time") from None
        finally:
            await wire.close()
        if not ranges:
            raise ServerError("CLUSTERDOWN it serves no slot and knows nobody who does")
        return ranges

    def _learn(self, asked: Address, ranges: Sequence[Any]) -> None:
        owners: dict[int, Address] = {}
        nodes: list[Address] = []
        for first, last, *served_by in ranges:
            # A node that does not know its own address, or is told not to say it, is where we have found it.
            named = [((node[0] or b"").decode() or asked[0], int(node[1])) for node in served_by]
            nodes += named
            owners.update(dict.fromkeys(range(first, last + 1), named[0]))
        self._owners, self._nodes = owners, list(dict.fromkeys(nodes))
        self._is_in_doubt = False


class ClusterWire(Caller):
    """One connection to each node, made when it is needed. Any number of tasks may use it at once."""

    def __init__(self, cluster: Cluster, *, patience: float) -> None:
        """`patience`: seconds for which a command is sent again that nodes refuse because slots move."""
        self._cluster = cluster
        self._patience = patience
        self._wires: dict[Address, Wire] = {}

    @property
    def generation(self) -> int:
        """See `Caller.generation`."""
        return sum(wire.generation for wire in self._wires.values())

    async def close(self) -> None:
        """See `Caller.close`."""
        for wire in self._wires.values():
            await wire.close()

    async def many(self, commands: Sequence[Sequence[Argument]], *, timeout: float = COMMAND_TIMEOUT) -> list[Any]:
        """See `Caller.many`. Commands for one node keep their order; those for several are on their way at once.

        A command without a key goes to where the first one with a key goes. WAIT or WAITAOF, which stands last, goes to
        every node that was written to, and its reply is the least of theirs.
        """
        if not commands:
            return []
        pipeline = _Pipeline(commands)
        loop = asyncio.get_running_loop()
        give_up, pause, hops = math.inf, _FIRST_PAUSE, 0
        while True:
            await self._send(pipeline, timeout)
            has_to_wait = self._sort(pipeline)
            if not pipeline.open or loop.time() >= give_up:
                return pipeline.result()
            give_up, hops = min(give_up, loop.time() + self._patience), hops + 1
            if has_to_wait or hops > _HOPS:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _send(self, pipeline: _Pipeline, timeout: float) -> None:
        """Send what is open, each command to its node, and keep what is answered."""
        try:
            await self._cluster.know()
        except UnreachableError as error:
            pipeline.put(pipeline.open, [error] * len(pipeline.open))
            return
        parts = pipeline.parts(self._cluster)
        sent = [self._ask(address, commands, timeout, asking=asking) for (address, asking), _, commands in parts]
        # Each is waited for, whatever becomes of the others: what is answered is known.
        answers = [await sent[0]] if len(sent) == 1 else await asyncio.gather(*sent)
        lost = None
        for (_, indexes, _), answer in zip(parts, answers, strict=True):
            if isinstance(answer, TransportError):
                self._cluster.doubt()
                pipeline.put(indexes, [answer] * len(indexes))
                lost = lost if isinstance(answer, UnreachableError) else answer
            else:
                pipeline.put(indexes, answer)
        if lost is not None:
            raise lost

    async def _ask(
        self, address: Address, commands: Sequence[Sequence[Argument]], timeout: float, *, asking: bool
    ) -> list[Any] | TransportError:
        """One node's replies, or why there are none."""
        wire = self._wires.get(address)
        if wire is None:
            wire = self._wires[address] = self._cluster.wire_to(address)
        try:
            if not asking:
                return await wire.many(commands, timeout=timeout)
            pairs = [each for command in commands for each in (("ASKING",), command)]
            return (await wire.many(pairs, timeout=timeout))[1::2]
        except TransportError as error:
            return error

    def _sort(self, pipeline: _Pipeline) -> bool:
        """Find what has to be sent again, and where; whether that has to wait a little."""
        again: dict[int, Address | None] = {}
        has_to_wait = False
        for index in pipeline.open:
            reply = pipeline.replies[index]
            if isinstance(reply, UnreachableError):
                again[index], has_to_wait = None, True
            elif isinstance(reply, ServerError):
                if reply.code in _ELSEWHERE:
                    _, slot, place = str(reply).split(" ")[:3]
                    address = self._address(place, pipeline.sent_to[index])
                    if reply.code == "MOVED":
                        self._cluster.moved(int(slot), address)
                    again[index] = address if reply.code == "ASK" else None
                elif reply.code in _PASSING:
                    again[index], has_to_wait = None, True
                    if reply.code != "TRYAGAIN":
                        self._cluster.doubt()
        pipeline.open = again
        return has_to_wait

    @staticmethod
    def _address(place: str, told_by: Address) -> Address:
        """The node that a redirection names; without a host it is on that of the node that says so."""
        host, _, port = place.rpartition(":")
        return host or told_by[0], int(port)


def _is_refused(reply: Any) -> bool:
    """Whether the node that replied was the wrong one, or not ready: the command has not run."""
    return isinstance(reply, ServerError) and (reply.code in _ELSEWHERE or reply.code in _PASSING)


class _Pipeline:
    """Commands, their replies so far, and what is open: not answered, or refused by a node that was the wrong one."""

    def __init__(self, commands: Sequence[Sequence[Argument]]) -> None:
        #: Sent along with whatever is sent; it concerns what stands before it.
        self._wait = commands[-1] if commands[-1][0] in _WAITS else None
        self._commands = commands if self._wait is None else commands[:-1]
        slots = [slot_of_command(command) for command in self._commands]
        first = next((slot for slot in slots if slot is not None), None)
        self._slots = [first if slot is None else slot for slot in slots]
        self._least: Any = None
        self.replies: list[Any] = [None] * len(self._commands)
        self.sent_to: list[Address] = [("", 0)] * len(self._commands)
        #: Places of open commands -> the node that is to be asked although it does not serve the slot yet.
        self.open: dict[int, Address | None] = dict.fromkeys(range(len(self._commands)))

    def parts(self, cluster: Cluster) -> list[_Part]:
        """What is open, by the node that it goes to. What no node serves is refused here, as a node would."""
        places: dict[tuple[Address, bool], list[int]] = defaultdict(list)
        for index, asked in self.open.items():
            slot = self._slots[index]
            address = asked or (cluster.any_owner() if slot is None else cluster.owner(slot))
            if address is None:
                self.replies[index] = ServerError("CLUSTERDOWN no node is known to serve the slot")
            else:
                self.sent_to[index] = address
                places[address, asked is not None].append(index)
        wait = [] if self._wait is None else [self._wait]
        return [(place, indexes, [*(self._commands[i] for i in indexes), *wait]) for place, indexes in places.items()]

    def put(self, indexes: Iterable[int], answers: Sequence[Any]) -> None:
        """Keep what was answered to the commands at these places, and to what waits behind them."""
        places = list(indexes)
        for index, answer in zip(places, answers, strict=False):
            self.replies[index] = answer
        if self._wait is None or len(answers) == len(places) or all(map(_is_refused, answers[:-1])):
            return
        answer = answers[-1]
        if self._least is None or isinstance(answer, ServerError):
            self._least = answer
        elif not isinstance(self._least, ServerError):
            self._least = min(self._least, answer)

    def result(self) -> list[Any]:
        """The replies. Raises UnreachableError where a command could not be sent."""
        for reply in self.replies:
            if isinstance(reply, UnreachableError):
                raise reply
        return self.replies if self._wait is None else [*self.replies, self._least]
