"""What is wrong with a request, in one sentence and without what was sent: that may be a secret in the wrong place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

_SECRET = re.compile(r"token|secret|passw|key|credential|cookie|auth", re.IGNORECASE)
#: Problems that an answer names.
_SHOWN = 3


class WordedRoute(APIRoute):
    """A route whose 422 says in words what is wrong; `APIRouter(route_class=WordedRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See FastAPI."""
        handle = super().get_route_handler()
        fields = [name for field in self.dependant.body_params for name in _names(field.field_info.annotation)]

        async def worded(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                told = [_told(each, fields) for each in error.errors()[:_SHOWN]]
                raise HTTPException(422, "; ".join(told)) from None

        return worded


def _names(model: Any) -> list[str]:
    return list(getattr(model, "model_fields", ()))


def _told(error: Mapping[str, Any], fields: list[str]) -> str:
    """One problem. `fields`: those that the body may have."""
    name = ".".join(str(part) for part in error["loc"][1:]) or "the request"
    if error["type"] != "extra_forbidden":
        return f"{name}: {error['msg']}"
    if "auth_token_ref" in fields and _SECRET.search(name):
        return (
            f"{name}: a token is never sent, it would stand in events and logs; say with auth_token_ref where it is: "
            '"env:NAME", "file:name" or "call:anything"'
        )
    near = difflib.get_close_matches(name, fields, n=1)
    return f"{name}: there is no such field" + (
        f"; did you mean {near[0]}?" if near else f"; there are {', '.join(fields)}"
    )
