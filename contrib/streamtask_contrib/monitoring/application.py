"""The monitoring app: what `streamtask worker -A streamtask_contrib.monitoring:app` runs."""

from __future__ import annotations

from streamtask_contrib.extras import require

require("monitoring", "pydantic_settings")

from streamtask import App  # noqa: E402 - what is missing is said before it is missed
from streamtask_contrib.monitoring import alerts  # noqa: E402
from streamtask_contrib.monitoring.settings import MonitoringSettings  # noqa: E402
from streamtask_contrib.monitoring.worker import router  # noqa: E402
from streamtask_contrib.reporting import router as reporting  # noqa: E402
from streamtask_contrib.settings import from_environment  # noqa: E402


def make_app(settings: MonitoringSettings | None = None, *, broker: str | None = None) -> App:
    """The app. `settings`: by default from the environment. `broker`: a URL; by default as every app's."""
    settings = settings or from_environment(MonitoringSettings)
    app = App("monitoring", broker=broker)
    app.include(router(settings))
    for sink in alerts.routers(settings):
        app.include(sink)
    app.include(reporting(app.name))
    return app
