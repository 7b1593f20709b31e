"""YAML, as far as a configuration needs it: one document, plain values, each key once, no aliases.

Aliases are how a kilobyte becomes a gigabyte, and what two places share no diff can show. Apart from `documents`,
because it needs PyYAML.
"""

from __future__ import annotations

from typing import Any

import yaml

# What libyaml reads is the same, twenty times as fast; not every build of PyYAML has it.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BEGINS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class YamlError(Exception):
    """The text is no such YAML. The message shows nothing of it."""


class _Loader(_Base):  # type: ignore[misc] # one of two
    """Refuses a key that stands twice, and leaves a date the text that it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's own
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            raise YamlError(f"a key below line {node.start_mark.line + 1} stands twice")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}


def load(text: str, max_depth: int, max_values: int) -> object:
    """What a document holds; None where it holds nothing.

    Raises:
        YamlError: it is none, or more than is allowed.
    """
    try:
        _inspect(text, max_depth, max_values)
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        # Not its own words: they quote what stands there.
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "it"
        raise YamlError(f"{place} is not YAML that a configuration may have") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        raise YamlError("it has a character or a number that YAML has not") from None


def _inspect(text: str, max_depth: int, max_values: int) -> None:
    """Look at the parts of a document before anything is made of them."""
    depth = seen = 0
    for event in yaml.parse(text, Loader=_Base):
        if isinstance(event, yaml.AliasEvent):
            place = f"line {event.start_mark.line + 1}" if event.start_mark else "it"
            raise YamlError(f"{place} has an alias (*name); write the value out")
        seen += isinstance(event, (*_BEGINS, yaml.ScalarEvent))
        depth += isinstance(event, _BEGINS)
        depth -= isinstance(event, _ENDS)
        if depth > max_depth:
            raise YamlError(f"it has more than {max_depth} levels")
        # A key counts, too, here.
        if seen > 2 * max_values:
            raise YamlError(f"it has more than {max_values} values")
