"""How fast the door is: ``python -m tests.bench.serve [--proxy haproxy] [--seconds 60]``.

A deployment on loopback with a tiny model, beside bare calls of the same code in the same run:

* faces: what the endpoint adds to a bare call at one client, throughput at 16 clients against a
  bare loop in as many threads as the gateway has, p95 of detect and embed of a 640 px photograph;
* overload: for a while ten times the requests per second that can be drawn.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from skimage import data

from infra.cluster import cluster, usable_cpus
from serving.faces import Faces
from serving.recipes import FaceSettings
from tests.e2e.flood import flood
from tests.e2e.served import Crowd, serving

WORKERS = 2
WARM_UP = 10
SLOWDOWN = 3.0
"""``images.slowdown``, as the recipe ``gpu`` has it."""
STEPS = 25
"""Of a picture under overload: long enough that clients and door are not what is measured."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxy", choices=("default", "haproxy"), default="default")
    parser.add_argument("--requests", type=int, default=100, help="per measurement of faces")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    asked = parser.parse_args()
    # Read by Serve when it is imported, in every one of its processes.
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = str(int(asked.proxy == "haproxy"))
    with (
        tempfile.TemporaryDirectory() as home,
        cluster(),
        serving(Path(home), slowdown=3.0) as served,
    ):
        print(f"proxy: {asked.proxy}, {usable_cpus()} CPUs, load {os.getloadavg()[0]:.1f}")
        faces(served, asked.requests)
        overload(served, asked.seconds)


def faces(served, requests: int) -> None:
    """Compare the endpoint with bare calls."""
    blob, measured = photo(640), Faces(FaceSettings(at_once=WORKERS))

    def bare() -> float:
        began = time.perf_counter()
        asyncio.run(measured.embed(blob))
        return time.perf_counter() - began

    with served.client() as client:

        def endpoint() -> float:
            began = time.perf_counter()
            answer = client.post("/v1/faces/embed", files={"image": blob})
            assert answer.status_code == 200, answer.text
            return time.perf_counter() - began

        for _ in range(WARM_UP):
            bare(), endpoint()
        # By turns, so that both see the same machine.
        pairs = [(bare(), endpoint()) for _ in range(requests)]
        one, two = (sorted(times) for times in zip(*pairs, strict=True))
        added_ms = 1000 * (statistics.median(two) - statistics.median(one))
        print(f"embed, bare call, p50             {1000 * statistics.median(one):7.1f} ms")
        print(f"the endpoint adds, p50            {added_ms:7.1f} ms   (aim: at most 5)")
        p95_ms = 1000 * two[int(0.95 * len(two))]
        print(f"detect and embed over HTTP, p95   {p95_ms:7.1f} ms   (aim: below 300)")
        rates = []
        for work, threads in ((bare, WORKERS), (endpoint, 16)):
            began = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda _, work=work: work(), range(requests)))
            rates.append(requests / (time.perf_counter() - began))
    print(f"bare loop, {WORKERS} threads              {rates[0]:7.1f} photographs/s")
    share = rates[1] / rates[0]
    print(
        f"endpoint, 16 clients              {rates[1]:7.1f} photographs/s, {share:.0%} (aim: 85 %)"
    )
    measured.close()


def overload(served, seconds: float) -> None:
    """Send ten times what can be drawn, and see what is answered."""
    with Crowd(served, 1, steps=STEPS) as alone:
        alone.wait(30)
    one_s = float(np.mean(alone.seconds))
    probe = flood(served, 10 / one_s, 8, steps=STEPS)  # batches are being learnt
    per_s = len(probe.seconds) / 8
    before = memory_bytes()
    loaded = flood(served, 10 * per_s, seconds, steps=STEPS)
    grown = memory_bytes() - before
    p99 = [float(np.quantile(each.seconds, 0.99)) for each in (alone, loaded)]
    broken = {k: n for k, n in loaded.errors.items() if k != "overloaded"}
    print(f"capacity                          {per_s:7.1f} pictures/s of {STEPS} steps")
    print(
        f"ten times that for {seconds:.0f} s           {dict(loaded.statuses)}, other errors: "
        f"{broken}, {len(loaded.seconds) / seconds:.1f} pictures/s"
    )
    print(
        f"p99 of accepted requests          {p99[1]:7.2f} s, {p99[1] / p99[0]:.1f} x unloaded "
        f"{p99[0]:.2f} s   (aim: 3)"
    )
    print(f"memory of all replicas grew by    {grown / 2**20:7.0f} MiB")
    again = served.draw()
    print(f"a request afterwards              {again.status_code}")


def photo(side_px: int) -> bytes:
    """Return a photograph of one person as a JPEG of that side."""
    out = BytesIO()
    Image.fromarray(data.astronaut()).resize((side_px, side_px)).save(out, "JPEG", quality=90)
    return out.getvalue()


def memory_bytes() -> int:
    """Add up what replicas and proxies hold."""
    ours = ("ray::ServeReplica", "ray::Proxy")
    total = 0
    for process in psutil.process_iter():
        try:
            if " ".join(process.cmdline()).startswith(ours):
                total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


if __name__ == "__main__":
    main()
