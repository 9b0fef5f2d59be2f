"""A worker to be killed: ``python -m tests.serving.jobs.mortal HOME [RECORDS]``.

It writes a line for every video that it has given its name, so that one made twice is seen.
"""

import asyncio
import os
import sys
from pathlib import Path

from serving.jobs import attempt
from tests.serving.jobs.drawers import Home, Sums

SETTINGS = {"lease_s": 5.0, "at_once": 2, "attempts": 100, "queue": 2000}
BYTES = b"a video"


class NobodyIsProtected:
    async def drawn(self, *_):
        pass


def log(home):
    return Path(home) / "made.txt"


def main(home, records=""):
    here = Home(home, records, **SETTINGS)
    # Not what is tried here, and most of the time that a real one takes.
    attempt.write_mp4 = lambda _, path, __: path.write_bytes(BYTES)
    named = attempt.place

    def place(beside, target):
        named(beside, target)
        with log(home).open("a") as file:
            os.write(file.fileno(), f"{target.parent.name}\n".encode())

    attempt.place = place
    (Path(home) / f"ready-{os.getpid()}").touch()
    asyncio.run(here.runner(Sums(), guard=NobodyIsProtected()).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
