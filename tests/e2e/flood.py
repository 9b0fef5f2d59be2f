"""Requests that arrive at a rate, whether or not those before them were answered."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx2

from tests.e2e.served import wanted


@dataclass
class Flooded:
    """How requests at a steady rate ended."""

    seconds: list = field(default_factory=list)
    """Of those that were drawn."""
    statuses: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)


def flood(served, per_s, seconds, **fields):
    """Send ``per_s`` requests a second for ``seconds``; wait for all answers."""
    return asyncio.run(_flood(served, per_s, seconds, fields))


async def _flood(served, per_s, seconds, fields):
    found = Flooded()
    header = {"authorization": f"Bearer {served.keys['all']}"}
    limits = httpx2.Limits(max_connections=512, max_keepalive_connections=512)
    async with httpx2.AsyncClient(
        base_url=served.url, headers=header, timeout=httpx2.Timeout(120, pool=None), limits=limits
    ) as client:

        async def ask(number):
            began = time.monotonic()
            body = wanted(**{"seed": number, **fields})
            try:
                answer = await client.post("/v1/images/generations", json=body)
            except httpx2.HTTPError as error:
                found.errors[repr(error)] += 1
                return
            found.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                found.seconds.append(time.monotonic() - began)
            else:
                found.errors[answer.json()["error"]["code"]] += 1

        began = time.monotonic()
        async with asyncio.TaskGroup() as asking:
            for number in range(round(per_s * seconds)):
                await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
                asking.create_task(ask(number))
    return found
