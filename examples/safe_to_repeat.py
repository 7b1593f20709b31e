"""Two handlers that charge a card and remember it, under faults: one that is not safe to repeat, and the same, mended.

python examples/safe_to_repeat.py
"""

import asyncio

from streamtask import App, Context, Event, Router
from streamtask.testing import faults

careless, careful = Router(), Router()


class OrderPlaced(Event, stream="orders"):
    order_id: str
    total: float


class OrderPaid(Event, stream="payments"):
    order_id: str


class Bank:
    """Charges once for each idempotency key, as those do that take money over a network."""

    async def charge(self, total: float, *, idempotency_key: str | None = None) -> str:
        await asyncio.sleep(0)
        return f"{total} taken for {idempotency_key}"


bank = Bank()
paid: set[str] = set()


@careless.on(OrderPlaced)
async def pay_carelessly(order: OrderPlaced, ctx: Context) -> None:
    if order.order_id in paid:
        return
    await bank.charge(order.total)
    paid.add(order.order_id)
    await ctx.app.publish(OrderPaid(order_id=order.order_id))


@careful.on(OrderPlaced, dedupe="order_id")  # two deliveries of one order: one is handled
async def pay(order: OrderPlaced, ctx: Context) -> OrderPaid:
    await bank.charge(order.total, idempotency_key=ctx.envelope.event_id)  # a repeat is known at the bank
    paid.add(order.order_id)
    return OrderPaid(order_id=order.order_id)  # one step with the ack


async def main() -> None:
    for router in (careless, careful):
        app = App("shop", broker="memory://")
        app.include(router)
        with faults.Recorder() as effects:
            effects.wrap(bank, "charge")
            report = await faults.check(
                app,
                OrderPlaced(order_id="1", total=9.5),
                effects=effects,
                observe=lambda: sorted(paid),
                reset=paid.clear,
            )
        print(report, end="\n\n")


if __name__ == "__main__":
    asyncio.run(main())
