"""Cron texts: five fields (minute, hour, day, month, weekday), or six with seconds before them, in a time zone.

cronsim reads them; what clock changes mean is decided here. A text for every hour goes on through a change as if there
were none. Any other names times of day, each of which comes once a day: one that is left out when clocks go forward
comes when they have, one that they show twice comes the first time. Imported by `timetable.py` where a cron text is
met, and by nobody else.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from streamtask.errors import ConfigurationError

_HOURS = 24
_MINUTE = timedelta(minutes=1)


class Cron:
    """The moments of a cron text."""

    def __init__(self, words: str, zone: str) -> None:
        """Raises ConfigurationError where the text or the zone is none."""
        fields = words.split()
        self.text = f"cron {zone} {' '.join(fields)}"
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigurationError(
                f"{zone!r} is no time zone that this machine knows: one is named like Europe/Berlin. A system that "
                "knows none lacks its package tzdata, in whose place the one of that name from PyPI will do"
            ) from None
        try:
            self._every_hour = len(CronSim(words, datetime(1970, 1, 1)).hours) == _HOURS  # noqa: DTZ001 - it is only read
            if self._every_hour:
                # However it was written: cronsim looks at the star.
                fields[-4] = "*"
            self._words = " ".join(fields)
            self.after(0)
        except CronSimError as error:
            raise ConfigurationError(
                f"{words!r} is no cron text ({error}): it has five fields, minute, hour, day, month and weekday, like "
                "'*/5 * * * *'"
            ) from None

    def after(self, moment: int) -> int:
        """See `Timetable.after`."""
        start = datetime.fromtimestamp(moment // 1000, self._zone)
        for found in CronSim(self._words, start if self._every_hour else start.replace(tzinfo=None)):
            ms = round((found if self._every_hour else self._shown(found)).timestamp()) * 1000
            # Clocks that show an hour for the second time: its times have passed.
            if ms > moment:
                return ms
        raise CronSimError("no day is like that")

    def _shown(self, wall: datetime) -> datetime:
        """When clocks of the zone first show this time of day, or have gone past it."""
        while True:
            local = wall.replace(tzinfo=self._zone)
            if local.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None) == wall:
                return local
            wall += _MINUTE
