"""The name of every key that streamtask keeps in Redis. No other module spells one.

T below is `{stream:NAME}`: Redis Cluster hashes what stands in braces, so that all keys of a stream share its slot. A
lane of it, `NAME@high`, is a stream of its own in that slot, with `T:lane:high` in place of `stream:NAME` and of T. But
what is known of an event by its id, marks of handlers and of publishers, and rates are shared by all lanes, beside
`stream:NAME`.

    stream:NAME              STREAM  entries: `envelope` [, content_type, content_encoding, event_id, only, replay]
    T:lane:PRIORITY          STREAM  entries of a priority other than `normal`, as above
    T:retry:G                ZSET    parked entry id -> due, ms        (index of what `~parked` owns in group G)
    T:waits:G                SET     "TYPE<tab>VERSION" that some entry waits for
    T:wait:G:TYPE:VERSION    ZSET    waiting entry id -> deadline, ms  (index of what `~waiting` owns)
    T:history:G              HASH    "ID:f" failures, "ID:u" uncharged deliveries, "ID:e" last error,
                                     "ID:s" checkpointed state, "ID:n" "DELIVERIES NUMBER" of it, "ID:p" progress,
                                     "ID:k" the gate it has come to
    T:gates:G                ZSET    "GATE ID", each 0                 (through a gate, which hashes its name and key)
    T:queued:G               ZSET    "GATE ID", each 0                 (index of what `~queued` owns)
    T:done:G:TYPE:VALUE      STRING  de-duplication mark               (expires with the window)
    T:result:ID              STRING  what became of an event           (expires)
    T:results                STREAM  `id` of each event whose result has come  (the last some ten thousand; expires)
    T:progress:ID            STREAM  `p`: how far an event's handler is, the last word of it  (expires)
    T:cancelled:ID           STRING  "1": nobody wants this event, or workflow, any more  (expires)
    T:workflow:ID            HASH    "~" -> what it is made of, call -> done, failed or cancelled  (expires)
    T:group:ID               HASH    index -> value of a member of a group of a workflow  (expires)
    T:types:G                SET     "TYPE<tab>VERSION" that the group is interested in
    T:skipped:G              HASH    TYPE -> first skipped id, "TYPE<tab>n" -> how many
    T:dead                   STREAM  dead letters of all groups
    T:dead:counts            HASH    group -> dead letters
    T:floors                 HASH    group -> id before everything it has not finished; "~sweep:" -> cursor
    T:seen                   HASH    group -> last registration, ms
    T:delayed, T:delayed:body  ZSET event id -> due, ms; HASH event id -> packed fields
    T:debounce               HASH    "k:KEY" -> event id, "e:ID" -> key: what of T:delayed was published under a key
    T:cron                   HASH    rule -> last slot, ms; "RULE<tab>text" its timetable, "RULE<tab>begun" since when,
                                     ms, "RULE<tab>seen" when a worker had it, ms
    T:outbox                 STREAM  emits for streams of another slot: `target`, `event_id`, `delay`, then the entry
    T:relaying               STRING  the worker that publishes them at this moment    (expires in seconds)
    T:rate:G:HANDLER[:VALUE] STRING  "START END", µs: when the next start is free, and when the last of those that wait
                                     asks again                        (expires with them)
    T:pub:KEY                STRING  publish de-duplication            (expires with the window)
    {streamtask}:streams     SET     every stream name that was registered or published to
    {streamtask}:workers     ZSET    owner -> last beat, ms
    {streamtask}:beat:OWNER  STRING  JSON about a living owner         (expires in seconds)
    streamtask:blob:NAME     STRING  "PART SIZE": which part is the blob  (expires)
    {streamtask:blob:NAME}:PART  STRING  its bytes; of one slot with it   (expires, a minute later)
    streamtask:record:KEY    HASH    field -> bytes                       (expires)
"""

from __future__ import annotations

from streamtask import lanes

#: Owns entries whose retry or hand-back is not taken up yet.
PARKED = "~parked"
#: Owns entries of types that only other workers handle.
WAITING = "~waiting"
#: Owns entries that queue behind a gate.
QUEUED = "~queued"
RESERVED = frozenset({PARKED, WAITING, QUEUED})

#: Of one slot, with the beats: whoever can beat there can see who else does, also while other nodes are away.
STREAMS = "{streamtask}:streams"
WORKERS = "{streamtask}:workers"

_STREAM = "stream:"
_LANE = ":lane:"
_PREFIXES = ("stream:", "{stream:", "{streamtask}:", "streamtask:", "{streamtask:")


def text(word: bytes) -> str:
    """A name as the server has it. What is no UTF-8 is somebody else's, and finds its way back as it came."""
    return word.decode("utf-8", "surrogateescape")


def is_ours(word: object) -> bool:
    """Whether a word of a command is the name of a key that this module spells."""
    return isinstance(word, str) and word.startswith(_PREFIXES)


def stream(name: str) -> str:
    """The stream itself."""
    return tag(name) if lanes.is_lane(name) else f"stream:{name}"


def name_of(stream_key: bytes) -> str:
    """The inverse of `stream`."""
    word = text(stream_key)
    if word.startswith(_STREAM):
        return word[len(_STREAM) :]
    name, _, priority = word.removeprefix("{" + _STREAM).partition("}" + _LANE)
    return lanes.lane(name, priority)


def tag(name: str) -> str:
    """What every other key of the stream begins with."""
    if lanes.is_lane(name):
        return f"{home_tag(name)}{_LANE}{lanes.priority_of(name)}"
    return "{stream:" + name + "}"


def home_tag(name: str) -> str:
    """The same of the stream that a lane is of: what all its lanes share begins with it."""
    return "{stream:" + lanes.home(name) + "}"


def retry(name: str, group: str) -> str:
    """Index of parked entries."""
    return f"{tag(name)}:retry:{group}"


def waits(name: str, group: str) -> str:
    """Types and versions that entries wait for."""
    return f"{tag(name)}:waits:{group}"


def wait_prefix(name: str, group: str) -> str:
    """What `wait` begins with, for all types of a group."""
    return f"{tag(name)}:wait:{group}:"


def wait(name: str, group: str, type_: str, version: str) -> str:
    """Index of entries waiting for a worker that handles this type and version."""
    return f"{wait_prefix(name, group)}{type_}:{version}"


def history(name: str, group: str) -> str:
    """Failures and uncharged deliveries of entries that have any, and what their handlers have come to."""
    return f"{tag(name)}:history:{group}"


def gates(name: str, group: str) -> str:
    """Who is through a gate of the group's."""
    return f"{tag(name)}:gates:{group}"


def queued(name: str, group: str) -> str:
    """Index of entries that queue behind a gate."""
    return f"{tag(name)}:queued:{group}"


def result(name: str, event_id: str) -> str:
    """The result of an event."""
    return f"{home_tag(name)}:result:{event_id}"


def results(name: str) -> str:
    """The stream that tells whose results have come."""
    return f"{home_tag(name)}:results"


def progress(name: str, event_id: str) -> str:
    """How far an event is."""
    return f"{home_tag(name)}:progress:{event_id}"


def cancelled(name: str, event_id: str) -> str:
    """That an event is cancelled."""
    return f"{home_tag(name)}:cancelled:{event_id}"


def workflow(name: str, workflow_id: str) -> str:
    """How far a workflow is."""
    return f"{home_tag(name)}:workflow:{workflow_id}"


def values(name: str, group_id: str) -> str:
    """The values of a group of a workflow."""
    return f"{home_tag(name)}:group:{group_id}"


def done(name: str, group: str, mark: str) -> str:
    """A de-duplication mark."""
    return f"{home_tag(name)}:done:{group}:{mark}"


def types(name: str, group: str) -> str:
    """The durable set of types and versions of a group."""
    return f"{tag(name)}:types:{group}"


def skipped(name: str, group: str) -> str:
    """First skipped id and count, by type."""
    return f"{tag(name)}:skipped:{group}"


def dead(name: str) -> str:
    """The dead-letter stream."""
    return f"{tag(name)}:dead"


def dead_counts(name: str) -> str:
    """Dead letters by group."""
    return f"{tag(name)}:dead:counts"


def floors(name: str) -> str:
    """Checkpointed positions of the groups."""
    return f"{tag(name)}:floors"


def seen(name: str) -> str:
    """When each group was last registered."""
    return f"{tag(name)}:seen"


def registration(name: str, group: str) -> list[str]:
    """What the register script is given, in its order."""
    return [
        stream(name),
        types(name, group),
        skipped(name, group),
        floors(name),
        seen(name),
        history(name, group),
        retry(name, group),
        waits(name, group),
        gates(name, group),
        queued(name, group),
    ]


def delayed(name: str) -> str:
    """Index of events that are not due yet."""
    return f"{tag(name)}:delayed"


def delayed_bodies(name: str) -> str:
    """Events that are not due yet."""
    return f"{tag(name)}:delayed:body"


def debounced(name: str) -> str:
    """Which delayed event stands for a key."""
    return f"{tag(name)}:debounce"


def cron(name: str) -> str:
    """How far the rules of a stream are."""
    return f"{tag(name)}:cron"


def outbox(name: str) -> str:
    """Emits on their way to streams of another slot."""
    return f"{tag(name)}:outbox"


def relaying(name: str) -> str:
    """Whose turn it is to publish what is in the outbox."""
    return f"{tag(name)}:relaying"


def published(name: str, dedup_key: str) -> str:
    """Publish de-duplication."""
    return f"{home_tag(name)}:pub:{dedup_key}"


def rate(name: str, group: str, limit: str) -> str:
    """When a limited handler may start again."""
    return f"{home_tag(name)}:rate:{group}:{limit}"


def beat(owner: str) -> str:
    """The sign of life of an owner."""
    return "{streamtask}:beat:" + owner


def blob(called: str) -> str:
    """Which part is the blob of this name."""
    return f"streamtask:blob:{called}"


def blob_parts(called: str) -> str:
    """What the keys of the parts of this blob begin with."""
    return "{" + blob(called) + "}:"


def record(key: str) -> str:
    """A record."""
    return f"streamtask:record:{key}"


def pair(type_: str, version: str) -> str:
    """A type and a version as one member of a set."""
    return f"{type_}\t{version}"


def unpair(member: str) -> tuple[str, str]:
    """The inverse of `pair`."""
    type_, _, version = member.rpartition("\t")
    return type_, version
