"""How fast an adapter is trained: ``python -m tests.bench.train``.

Side by side in one process, by turns, at equal batch, on random weights of true size:

* prepared: the loop of ``visage train`` on features that were prepared once;
* encoded: the same, but pictures and prompts are encoded within the step;
* plain: the loop of IP-Adapter's tutorial in float32, its default (``plain_ip_adapter``);
* plain-half: the same with the recipe's precision.

``--workers`` measures what Ray and DeepSpeed add instead: the bare loop, the loop with ZeRO 1 in
one process, and both under Ray Train with one worker. What is not installed is left out, and said.
``--video`` measures bases of videos; see ``train_video``.

Model FLOP utilisation (MFU) is the work of the adapter's forward and backward pass, counted by
``torch.utils.flop_counter`` on tensors without memory, over time and over the device's peak;
encoding, recomputation and the optimiser are no work of the model's. Of GPUs the peak is the
maker's for dense bf16; of a CPU it is the best of some large matrix products in the same run.
Medians; the first turn, and the first step of every other one, are not counted.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from infra.cluster import usable_cpus
from tests.bench.train_device import Memory, count_flops, device_name, peak_flops
from tests.bench.train_sides import (
    SIZES,
    Size,
    Step,
    Turn,
    make_sides,
    make_workers,
    prepare,
    settle,
)
from training.engine import HALVES
from training.settings import TrainRecipe

SIDES = ("prepared", "encoded", "plain", "plain-half")
WORKERS = ("bare", "zero", "ray")
FAMILIES = {"encoded": "prepared", "plain-half": "plain"}
"""Sides that train another one's network."""
RATIOS = (
    ("prepared", "encoded", ""),
    ("prepared", "plain", " (aim on a GPU: 1.5)"),
    ("prepared", "plain-half", ""),
)


@dataclass(frozen=True)
class Measured:
    """One side: medians over steps."""

    side: str
    step_s: float
    each_s: tuple[float, ...]
    """Every step that counts: on a machine that others use, the fastest says most."""
    images_per_s: float
    mfu: float | None
    peak_gib: float | None
    data_share: float
    reporting_share: float


@dataclass(frozen=True)
class Result:
    """All that was measured in one run."""

    size: str
    size_px: int
    batch: int
    precision: str
    device: str
    threads: int
    began: str
    load: float
    """Processes that wanted a CPU when it began and when it ended, the greater; of one minute."""
    torch: str
    trained: int
    """Weights that the optimiser moves."""
    flops_per_image: int
    peak_flops: float | None
    sides: tuple[Measured, ...]
    left_out: dict[str, str]
    """Sides that could not be measured, and why."""

    def ratio(self, side: str, to: str) -> float | None:
        """Return how many times faster one side is than another."""
        step_s = {one.side: one.step_s for one in self.sides}
        return step_s[to] / step_s[side] if {side, to} <= step_s.keys() else None


def measure(
    size: Size,
    settings: list[str],
    *,
    wanted: tuple[str, ...] = SIDES,
    steps: int = 3,
    rounds: int = 3,
    profiled: bool = False,
) -> Result:
    """Let the sides take turns of ``steps`` steps, ``rounds`` times.

    Args:
        size: What is trained.
        settings: Laid over its recipe, KEY=VALUE.
        wanted: Of ``SIDES``, or of ``WORKERS``.
        steps: That count, per turn; 0 only counts FLOPs.
        rounds: Turns of each side.
        profiled: Print the operations in which ``prepared`` or ``bare`` spends its time.
    """
    began, load = datetime.now(UTC), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        recipe = settle(size, prepare(size, home / "features"), settings)
        threads = recipe.scale.threads or torch.get_num_threads()
        torch.set_num_threads(threads)
        flops, trained = count_flops(recipe)
        device = torch.device("cuda" if recipe.scale.use_gpu else "cpu")
        peak = peak_flops(device, HALVES.get(recipe.scale.precision))
        seen, gib, left_out = _turns(size, recipe, home, wanted, steps, rounds, profiled)
    measured = [_summed(side, took, gib[side], recipe, flops, peak) for side, took in seen.items()]
    return Result(
        size=size.recipe, size_px=size.size_px, batch=recipe.batch,
        precision=recipe.scale.precision,
        device=device_name(device),
        threads=threads, began=began.isoformat(timespec="minutes"),
        load=max(load, os.getloadavg()[0]), torch=torch.__version__, trained=trained,
        flops_per_image=flops, peak_flops=peak, sides=tuple(measured), left_out=left_out,
    )  # fmt: skip


def _turns(
    size: Size, recipe: TrainRecipe, home: Path, wanted: tuple[str, ...], steps: int, rounds: int,
    profiled: bool,
) -> tuple[dict[str, list[Step]], dict[str, float | None], dict[str, str]]:  # fmt: skip
    """Warm each side up as it is made, then measure by turns."""
    device = torch.device("cuda" if recipe.scale.use_gpu else "cpu")
    turns: dict[str, Turn] = {}
    gib: dict[str, float | None] = {}
    memories: dict[str, Memory] = {}
    with ExitStack() as stack:
        workers = set(wanted) & set(WORKERS)
        making = (
            make_workers(recipe, home, stack) if workers
            else make_sides(size, recipe, home, wanted)
        )  # fmt: skip
        while steps and len(turns) < len(wanted):
            before = Memory(device)
            try:
                name, turn = next(making)
                # Two sides may share one network: both count it.
                memory = memories.setdefault(FAMILIES.get(name, name), before)
                gib[name] = memory.peak_gib(lambda turn=turn: turn(1))
                turns[name] = turn
                sys.stderr.write(f"{name} is warm\n")
            except StopIteration:
                break
            except torch.OutOfMemoryError as error:
                sys.stderr.write(f"{error}\n")
                break
        seen: dict[str, list[Step]] = {name: [] for name in turns}
        for number in range(rounds):
            for name, turn in turns.items():
                seen[name] += turn(steps)
                sys.stderr.write(f"round {number + 1}: {name}, {seen[name][-1].step_s:.3f} s\n")
        if profiled and turns:
            _profile(next(iter(turns.values())), device)
    left_out = {name: "not installed, or too large" for name in wanted if name not in turns}
    return seen, gib, left_out if steps else {}


def _profile(turn: Turn, device: torch.device) -> None:
    """Print in which operations two steps of a side are spent."""
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    with torch.profiler.profile() as profiler:
        turn(1)
    print(profiler.key_averages().table(sort_by=key, row_limit=16, max_name_column_width=48))


def _summed(
    side: str, steps: list[Step], gib: float | None, recipe: TrainRecipe, flops: int,
    peak: float | None,
) -> Measured:  # fmt: skip
    """Take medians."""
    each_s = [step.step_s for step in steps]
    step_s = statistics.median(each_s)
    return Measured(
        side=side, step_s=step_s, each_s=tuple(each_s),
        images_per_s=recipe.batch / step_s,
        mfu=flops * recipe.batch / step_s / peak if peak else None,
        peak_gib=None if side == "ray" else gib,  # another process holds it
        data_share=statistics.median(step.data_s for step in steps) / step_s,
        reporting_share=statistics.median(step.reporting_s for step in steps)
        / (recipe.log_every * step_s),
    )  # fmt: skip


def show(result: Result) -> None:
    """Print a table."""
    peak = f"{result.peak_flops / 1e12:.3g}" if result.peak_flops else "unknown"
    print(f"{result.size}, {result.size_px} px, batch {result.batch}, {result.precision}, "
          f"{result.trained / 1e6:.1f} M trained; {result.device}, {result.threads} threads, "
          f"torch {result.torch}, {result.began}, load {result.load:.1f}")  # fmt: skip
    print(f"{result.flops_per_image / 1e12:.4g} TFLOP per image; peak {peak} TFLOP/s")
    print(f"{'side':12}{'s/step':>9}{'fastest':>9}{'steps':>6}{'images/s':>10}{'MFU %':>7}"
          f"{'GiB':>7}{'data %':>8}{'report %':>9}")  # fmt: skip
    for one in result.sides:
        mfu = "" if one.mfu is None else f"{100 * one.mfu:.1f}"
        gib = "" if one.peak_gib is None else f"{one.peak_gib:.2f}"
        print(f"{one.side:12}{one.step_s:9.4f}{min(one.each_s):9.4f}{len(one.each_s):6}"
              f"{one.images_per_s:10.3f}{mfu:>7}{gib:>7}{100 * one.data_share:8.2f}"
              f"{100 * one.reporting_share:9.3f}")  # fmt: skip
    for side, to, aim in RATIOS:
        if ratio := result.ratio(side, to):
            print(f"{side} is {ratio:.2f} x as fast as {to}{aim}")
    for side in ("zero", "ray"):
        if ratio := result.ratio("bare", side):
            bare = next(one.step_s for one in result.sides if one.side == "bare")
            more_s = bare * (ratio - 1)
            print(f"{side} takes {1000 * more_s:+.1f} ms per step more than bare, "
                  f"{100 * (ratio - 1):+.1f} % (aim: at most 10); that is 10 % of a step of "
                  f"{max(10 * more_s, 0):.2f} s")  # fmt: skip
    for side, why in result.left_out.items():
        print(f"left out: {side}, {why}")


def main() -> None:
    """Measure and print."""
    if "--video" in sys.argv:
        from tests.bench import train_video

        return train_video.main(sys.argv[1:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument(
        "--px", type=int, default=0, help="side of the pictures, if not the size's own"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="per turn; 0 only counts FLOPs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument(
        "--workers", action="store_true", help="Ray and DeepSpeed against the bare loop"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="a setting of the recipe, such as scale.compile=true")  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="print the costliest operations")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    asked = parser.parse_args()
    size = SIZES[asked.size]
    size = replace(size, size_px=asked.px or size.size_px)
    settings = [f"batch={asked.batch}", f"scale.threads={asked.threads}", *asked.settings]
    result = measure(
        size, settings, wanted=WORKERS if asked.workers else tuple(asked.sides),
        steps=asked.steps, rounds=asked.rounds, profiled=asked.profile,
    )  # fmt: skip
    show(result)
    if asked.json:
        asked.json.write_text(json.dumps(asdict(result), indent=2) + "\n")


if __name__ == "__main__":
    main()
