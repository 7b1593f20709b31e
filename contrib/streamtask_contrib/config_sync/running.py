"""What one process of a service runs with: the head, or what its file holds, and what was overridden. Does no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamtask_contrib.config_sync.documents import DocumentError, Form, canonical, parse
from streamtask_contrib.config_sync.redaction import Sealing, redacted
from streamtask_contrib.config_sync.values import Values, overridden
from streamtask_contrib.config_sync.versions import Version
from streamtask_contrib.events import ConfigReported


class Running:
    """Changed by one who tells it what there is. `values` is another object whenever they are others."""

    def __init__(self, form: Form) -> None:
        """`form`: of the file, before the head says it."""
        self._form = form
        #: What it should run with, and the number of the version that it took over last.
        self.head: Version | None = None
        self.version = 0
        self.values = Values({})
        #: Whether there is anything to run with.
        self.is_set = False
        #: Why the file cannot be read: `values` are what it held before that.
        self.problem = ""
        self._base: dict[str, Any] = {}
        self._overrides: dict[str, Any] = {}

    def see(self, version: Version) -> None:
        """Know a version without taking it over."""
        self.head, self._form = version, version.form

    def take(self, version: Version) -> None:
        """Run with a version, and nothing else."""
        self.see(version)
        self.version, self._overrides = version.number, {}
        self._set(version.values)

    def read(self, content: bytes | None) -> None:
        """Run with what the file holds; None: it is gone."""
        if content is None:
            self.problem = "it is gone"
        elif self.head is not None and content == self.head.content:
            self._set(self.head.values)
        else:
            try:
                self._set(parse(content, self._form))
            except DocumentError as error:
                self.problem = str(error)

    def is_changed(self, content: bytes | None) -> bool:
        """Whether these are not the bytes of the head."""
        return self.head is not None and content != self.head.content

    def override(self, values: Mapping[str, Any]) -> None:
        """Run with other values for some dotted names, until the next version."""
        self._overrides |= values
        self._set(self._base)

    def report(self, service: str, instance: str, key: bytes) -> ConfigReported:
        """What is to be told of it, once a head is known. `key`: that of the service's digests."""
        head = self.head
        if head is None:
            raise ValueError("without a head nobody knows what is secret")
        # A file that nobody can read is none: what is left of its values in this process is not what it says.
        values = {} if self.problem else self.values.plain()
        sealing = Sealing(key, head.patterns)
        is_head = canonical(values) == canonical(head.values)
        return ConfigReported(
            service=service,
            instance=instance,
            version=self.version,
            # Not reckoned anew: another version of this package may know other secrets.
            checksum=head.checksum if is_head else sealing.checksum(values),
            values=redacted(values, head.patterns),
            secrets=sealing.digests(values),
        )

    def _set(self, base: dict[str, Any]) -> None:
        self.is_set, self._base, self.problem = True, base, ""
        values = overridden(base, self._overrides)
        if canonical(values) != canonical(self.values.plain()):
            self.values = Values(values)
