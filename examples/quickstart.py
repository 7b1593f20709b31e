"""The smallest whole program: publish an event, handle it, stop. Run it with `python examples/quickstart.py`."""

import asyncio
from uuid import uuid4

from streamtask import App, Event

app = App("orders")  # no URL: a Redis server that streamtask starts and stops by itself
shipped = asyncio.Event()


class OrderPlaced(Event, stream="orders", key="order_id"):
    order_id: str
    total: float


@app.on(OrderPlaced, group="shipping", timeout=30)
async def ship(order: OrderPlaced) -> None:
    print(f"shipping order {order.order_id} over {order.total:.2f}")
    shipped.set()


async def main() -> None:
    async with app:
        # A new id each time: an order that was shipped once is not shipped again.
        await app.publish(OrderPlaced(order_id=uuid4().hex[:8], total=9.5))
        async with app.worker(concurrency=50), asyncio.timeout(10):
            await shipped.wait()


if __name__ == "__main__":
    asyncio.run(main())
