"""What a recorder of effects sees of calls, and that it leaves no trace."""

from __future__ import annotations

import types

import pytest

from streamtask.testing.faults import Effect, Recorder


class Bank:
    async def charge(self, card: str, total: float, idempotency_key: str | None = None) -> str:
        if total < 0:
            raise ValueError(total)
        return f"{card} {total}"

    def refund(self, card: str, *, ref: str = "") -> str:
        return card + ref


async def test_a_call_goes_through_and_is_recorded_with_its_arguments() -> None:
    bank = Bank()
    with Recorder() as effects:
        effects.wrap(bank, "charge")
        effects.wrap(bank, "refund")

        assert await bank.charge("visa", total=9.5) == "visa 9.5"
        assert bank.refund("visa", ref="!") == "visa!"

        assert effects.calls == [
            Effect("charge", "charge('visa', total=9.5)", None),
            Effect("refund", "refund('visa', ref='!')", None),
        ]


async def test_a_call_that_fails_has_no_effect() -> None:
    bank = Bank()
    with Recorder() as effects:
        effects.wrap(bank, "charge")
        with pytest.raises(ValueError, match="-1"):
            await bank.charge("visa", -1)
        assert effects.calls == []


async def test_calls_with_one_key_happen_once_and_those_with_another_again() -> None:
    bank = Bank()
    with Recorder() as effects:
        effects.wrap(bank, "charge")
        effects.wrap(bank, "refund", key="ref")

        for key in ("a", "a", "b"):
            await bank.charge("visa", 1, key)
        for _ in range(2):
            await bank.charge("visa", 1)
            bank.refund("visa", ref="r")

        assert effects.happened(with_arguments=False) == {"charge": 4, "refund": 1}
        assert effects.happened()["charge('visa', 1)"] == 2


def test_a_key_may_be_told_by_a_function() -> None:
    with Recorder() as effects:
        mail = effects.recording(lambda to, text: to + text, name="mail", key=lambda to, _: to)
        mail("ann", "hello")
        mail("ann", "hello again")
        mail("bob", "hello")

    assert effects.happened(with_arguments=False) == {"mail": 2}


async def test_a_stub_calls_nothing() -> None:
    bank = Bank()
    with Recorder() as effects:
        effects.stub(bank, "charge", returns="paid")
        effects.stub(bank, "refund")

        assert await bank.charge("visa", -1) == "paid"
        assert bank.refund("visa") is None
        assert [effect.name for effect in effects.calls] == ["charge", "refund"]


def test_afterwards_everything_is_as_it_was() -> None:
    module = types.ModuleType("shop")
    module.send = send = lambda: None  # type: ignore[attr-defined]
    bank = Bank()
    with Recorder() as effects:
        effects.wrap(module, "send")
        effects.wrap(bank, "refund")
        effects.stub(bank, "refund")
        effects.wrap(Bank, "charge")

    assert module.send is send
    assert vars(bank) == {}
    assert Bank.charge.__qualname__ == "Bank.charge"
    assert not hasattr(Bank.charge, "__wrapped__")
