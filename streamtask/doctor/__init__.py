"""What can lose or delay events, read from the facts about a server and its groups. Pure: no I/O, no clock.

`Inspector.facts` gathers the facts and the command line prints the findings. A finding says what was seen, what it
means and how to mend it; a fact that could not be had becomes a finding too, never a silent "all is well".
"""

from __future__ import annotations

from streamtask.doctor import security, server
from streamtask.doctor.facts import DeadFacts, Facts, Finding, GroupFacts, Level, Skipped, Waiting
from streamtask.doctor.groups import WAITING_AFTER, dead_letters, groups, outboxes

__all__ = [
    "WAITING_AFTER",
    "DeadFacts",
    "Facts",
    "Finding",
    "GroupFacts",
    "Level",
    "Skipped",
    "Waiting",
    "examine",
]


def examine(facts: Facts) -> list[Finding]:
    """Everything that is worth a word, the worst first."""
    asked = (*server.RULES, *security.RULES) if facts.settings else ()
    rules = (server.lost_at_restart, *asked, groups, outboxes, dead_letters)
    found = [finding for rule in rules for finding in rule(facts)]
    order = list(Level)
    return sorted(found, key=lambda finding: order.index(finding.level))
