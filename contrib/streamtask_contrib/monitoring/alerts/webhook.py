"""Anomalies as HTTP requests, signed as Standard Webhooks are: any service can hear of them, and be sure who says so.

A request that fails for now (no answer, 5xx, 408, 429) is tried again with growing pauses, or when `Retry-After` says;
one that is refused (any other 4xx, or a redirect, which is not followed) is a dead letter of the group `alert-webhook`,
to be replayed when the receiver was mended.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from streamtask import App, ConfigurationError, Context, Reject, RetryLater, Router
from streamtask_contrib.events import AnomalyDetected
from streamtask_contrib.monitoring.alerts.delivering import RETRY, AlertError, alert_of
from streamtask_contrib.monitoring.alerts.hushing import hushed
from streamtask_contrib.monitoring.alerts.keys import signing_keys
from streamtask_contrib.monitoring.settings import MonitoringSettings

#: The consumer group.
GROUP = "alert-webhook"
#: Requests at the same time.
_AT_ONCE = 4
#: The longest that a receiver may have us wait, in seconds.
_LONGEST = 3600.0
#: Answers that are no refusal, though they begin with a 4.
_FOR_NOW = frozenset({408, 429})


def router(settings: MonitoringSettings) -> Router:
    """The sink. Raises ConfigurationError where the settings are wrong."""
    routes = Router()
    hook = _Webhook(settings)

    @routes.worker_lifespan
    async def connected(_: App) -> AsyncIterator[None]:
        async with hook.connected():
            yield

    @routes.on(AnomalyDetected, group=GROUP, start="latest", retry=RETRY, concurrency=_AT_ONCE)
    async def post(anomaly: AnomalyDetected, ctx: Context) -> None:
        alert = alert_of(GROUP, anomaly, ctx, settings)
        if not alert.is_wanted:
            return
        await alert.begin()
        try:
            await hook.post(anomaly)
        except Reject:
            await alert.settled()
            raise
        await alert.settled()

    return routes


class _Webhook:
    """The receiver."""

    def __init__(self, settings: MonitoringSettings) -> None:
        self._timeout = settings.webhook_timeout
        self._url = _checked(settings.webhook_url.get_secret_value() if settings.webhook_url else "")
        self._keys = signing_keys(settings.webhook_secret) if settings.webhook_secret else []
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """A client for as long as the worker runs."""
        with hushed("httpx"):
            async with httpx.AsyncClient(timeout=self._timeout, follow_redirects=False) as self._client:
                yield
            self._client = None

    async def post(self, anomaly: AnomalyDetected) -> None:
        """Send it.

        Raises:
            AlertError: it did not arrive, and may later.
            RetryLater: the receiver says when.
            Reject: it was refused.
        """
        if self._client is None:
            raise ConfigurationError("the webhook has no client: its router runs in a worker, with its lifespan")
        body = body_of(anomaly)
        headers = signed(anomaly.anomaly_id, datetime.now(UTC), body, self._keys)
        try:
            async with (
                asyncio.timeout(self._timeout),
                # Nothing of the answer's body is read: it says nothing, and may be endless.
                self._client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                status, pause = response.status_code, response.headers.get("Retry-After", "")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            # Some name the address.
            raise AlertError(f"the webhook cannot be reached: {type(error).__name__}") from None
        _judge(status, pause)


def _judge(status: int, pause: str) -> None:
    if status < 300:  # noqa: PLR2004 - as HTTP has it
        return
    if status < 500 and status not in _FOR_NOW:  # noqa: PLR2004 - as above
        what = "redirects, which is not followed" if status < 400 else "refuses it"  # noqa: PLR2004 - as above
        raise Reject(f"the webhook {what}: {status}")
    seconds = _pause(pause, datetime.now(UTC))
    if seconds is not None:
        raise RetryLater(f"the webhook answers {status}, and to come back in {seconds:.0f} s", delay=seconds)
    raise AlertError(f"the webhook answers {status}")


def _pause(header: str, now: datetime) -> float | None:
    """Seconds of a `Retry-After`, a number or a date; None where it is neither."""
    if header.strip().isdecimal():
        return min(float(header), _LONGEST)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    until = until if until.tzinfo is not None else until.replace(tzinfo=UTC)
    return min(max(0.0, (until - now).total_seconds()), _LONGEST)


def body_of(anomaly: AnomalyDetected) -> bytes:
    """What is sent: type, time and data, as Standard Webhooks have them."""
    told = {
        "type": f"anomaly.{anomaly.state}",
        "timestamp": anomaly.detected_at.isoformat(),
        "data": anomaly.model_dump(mode="json"),
    }
    return json.dumps(told, separators=(",", ":")).encode()


def signed(message_id: str, now: datetime, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The headers of a request: its id is the same each time that it is tried."""
    timestamp = str(int(now.timestamp()))
    headers = {"content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": timestamp}
    if keys:
        content = f"{message_id}.{timestamp}.".encode() + body
        signatures = (hmac.new(key, content, hashlib.sha256).digest() for key in keys)
        headers["webhook-signature"] = " ".join(f"v1,{base64.b64encode(each).decode()}" for each in signatures)
    return headers


def _checked(address: str) -> str:
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError("STREAMTASK_MONITORING_WEBHOOK_URL is no http:// or https:// address")
    return address
