"""How long a submitted run takes to speak: ``python -m tests.bench.submit [--rounds 3]``.

A warm cluster of one node on loopback, with a token; a training of one step. By turns `visage
submit` and `ray job submit` of the same command with the same code: seconds from the command to the
log's first line, to the verb's own first line, and to the end.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.cluster.parcel import pack
from tests.pipelines.ray_head import BIN, Head
from tests.training.conftest import noise_features

TRAIN = (
    "train", "lfw64", "--method.width", "32", "--steps", "1", "--batch", "4", "--microbatch", "4",
    "--scale.threads", "1",
)  # fmt: skip
MARKS = {
    "the plan": "run       train-",  # only ours has one
    "log's first line": ("has started", "Running entrypoint"),
    "verb's first line": "run lfw64-",
    "verb's last line": "weights  ",
}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each side, after one warm-up")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        words = (*TRAIN, "--data.path", str(noise_features(home)))
        pack(home / "code.zip")
        head = Head().start()
        try:
            took = {"visage submit": [], "ray job submit": []}
            for number in range(asked.rounds + 1):
                out = ("--out", f"{home}/{number}")
                command = [BIN / "visage", "submit", *words, *out, "--address", head.address]
                took["visage submit"].append(timed(command, head))
                command = [
                    BIN / "ray", "job", "submit", "--address", head.address,
                    "--working-dir", home / "code.zip", "--", sys.executable, "-m", "pipelines",
                    *words, "--out", f"{home}/r{number}",
                ]  # fmt: skip
                took["ray job submit"].append(timed(command, head))
        finally:
            head.stop()
    told(took, asked.rounds)


def timed(command, head) -> dict[str, float]:
    """Run a command; return the seconds at which each mark was printed."""
    began, seen = time.perf_counter(), {}
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=head.environment,
    )  # fmt: skip
    for line in process.stdout:
        for mark, words in MARKS.items():
            if any(each in line for each in ([words] if isinstance(words, str) else words)):
                seen.setdefault(mark, time.perf_counter() - began)
    if process.wait() != 0:
        sys.exit(f"{command[0]} ended with {process.returncode}")
    return seen | {"end": time.perf_counter() - began}


def told(took, rounds) -> None:
    """Print the medians."""
    print(f"medians of {rounds}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"{'seconds to':<20}" + "".join(f"{side:>16}" for side in took))
    for mark in (*MARKS, "end"):
        row = f"{mark:<20}"
        for every in took.values():
            found = [one[mark] for one in every[1:] if mark in one]
            row += f"{statistics.median(found):>16.1f}" if found else f"{'':>16}"
        print(row)


if __name__ == "__main__":
    main()
