"""Records what handlers do outside: calls of functions that charge, mail, write; with the idempotency key of each.

A call with a key happens once however often it is made: whoever is called knows it again. A call without one, or with a
new key each time, happens as often as it is made.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Self, TypeVar

from streamtask.testing.points import interrupter

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
#: The name of a parameter, or a function of the call's arguments.
Key = str | Callable[..., str | None] | None

#: The parameter that is the key unless another is named.
_USUAL = "idempotency_key"


@dataclass(frozen=True, slots=True)
class Effect:
    """One call that was made."""

    #: What was called.
    name: str
    #: The call as it would be written.
    call: str
    #: Its idempotency key; None: it has none.
    key: str | None


class Recorder:
    """Records calls. Wrapped attributes are as they were after `restore`, or at the end of `with`."""

    def __init__(self) -> None:
        #: Every call, in order.
        self.calls: list[Effect] = []
        self._replaced: list[tuple[Any, str, bool, Any]] = []

    def recording(self, function: FunctionT, *, name: str | None = None, key: Key = _USUAL) -> FunctionT:
        """The function, with its calls recorded once it has returned.

        `key`: which parameter is the idempotency key, or a function of the arguments that tells it.
        """
        shown = name if name is not None else str(getattr(function, "__name__", function))
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def recorded(*args: Any, **kwargs: Any) -> Any:
                returned = await function(*args, **kwargs)
                effect = self._note(shown, function, args, kwargs, key)
                if (interrupted := interrupter()) is not None:
                    await interrupted.effect(effect.call)
                return returned

            return recorded  # type: ignore[return-value] # it takes and gives what the function does

        @wraps(function)
        def recorded_blocking(*args: Any, **kwargs: Any) -> Any:
            returned = function(*args, **kwargs)
            effect = self._note(shown, function, args, kwargs, key)
            if (interrupted := interrupter()) is not None:
                interrupted.effect_blocking(effect.call)
            return returned

        return recorded_blocking  # type: ignore[return-value] # as above

    def wrap(self, owner: Any, name: str, *, key: Key = _USUAL) -> None:
        """Record the calls of an attribute of an object or module: `effects.wrap(client, "charge")`."""
        self._replace(owner, name, self.recording(getattr(owner, name), name=name, key=key))

    def stub(self, owner: Any, name: str, *, returns: Any = None, key: Key = _USUAL) -> None:
        """The same, and nothing is called: it returns what is given here."""
        function = getattr(owner, name)
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def stubbed(*_: Any, **__: Any) -> Any:
                return returns

            self._replace(owner, name, self.recording(stubbed, name=name, key=key))
            return

        @wraps(function)
        def stubbed_blocking(*_: Any, **__: Any) -> Any:
            return returns

        self._replace(owner, name, self.recording(stubbed_blocking, name=name, key=key))

    def happened(self, *, with_arguments: bool = True) -> Counter[str]:
        """How often each effect happened, calls with one key counted once; by its call, or by its name alone."""
        counted: Counter[str] = Counter()
        keys: set[tuple[str, str]] = set()
        for effect in self.calls:
            if effect.key is not None:
                if (effect.name, effect.key) in keys:
                    continue
                keys.add((effect.name, effect.key))
            counted[effect.call if with_arguments else effect.name] += 1
        return counted

    def clear(self) -> None:
        """Forget the calls."""
        self.calls.clear()

    def restore(self) -> None:
        """Give every wrapped attribute back."""
        while self._replaced:
            owner, name, is_own, before = self._replaced.pop()
            if is_own:
                setattr(owner, name, before)
            else:
                delattr(owner, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def _replace(self, owner: Any, name: str, by: Callable[..., Any]) -> None:
        own = getattr(owner, "__dict__", {})
        self._replaced.append((owner, name, name in own, own.get(name)))
        setattr(owner, name, by)

    def _note(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], key: Key
    ) -> Effect:
        written = ", ".join([*(repr(each) for each in args), *(f"{word}={value!r}" for word, value in kwargs.items())])
        effect = Effect(name, f"{name}({written})", _key_of(function, args, kwargs, key))
        self.calls.append(effect)
        return effect


def _key_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], key: Key) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str):
        return key(*args, **kwargs)
    if key in kwargs:
        value = kwargs[key]
    else:
        bound = inspect.signature(function).bind_partial(*args, **kwargs).arguments
        value = bound.get(key)
    return None if value is None else str(value)
