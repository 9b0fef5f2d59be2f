"""Which method keeps people best at equal steps: ``python -m tests.bench.methods_lfw64``.

On Labeled Faces in the Wild at 64 px (VISAGE_TEST_DATA names the folder of lfw-dev.tar), by the
commands that people type: a base that learns faces (`lfw64_base`), and on it FaceID, InstantID and
Arc2Face, each without more losses, with the identity loss and with the triplet loss; equal steps,
batches, seeds, held-out people and noise. Arc2Face trains the base itself, from the same weights,
with a text encoder of random ones, as wide as that base asks for (192).

A whole run takes hours on a CPU. Every step is found again when the command is given again, so it
can be stopped at any time. That base reads no words, so nothing can be asked for in them: CLIP-T,
which says how prompts are followed, is absent, with its reason.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VISAGE = str(Path(sys.executable).with_name("visage"))
METHODS = {
    "FaceID": ["--method.kind", "ip_adapter_faceid", "--method.identity-norm", "standard"],
    "InstantID": ["--method.kind", "instant_id", "--method.identity-norm", "standard",
                  "--method.tokens", "16"],
    "Arc2Face": ["--method.kind", "arc2face", "--method.identity-norm", "standard"],
}  # fmt: skip
"""Vectors are standardised in all three: dlib's are crowded, and unit ones are nearly one."""
SCORES = ("facesim", "auc", "clip_t", "own_distance", "face_share")


def losses_of(identity: float, triplet: float) -> dict[str, list[str]]:
    """Return what each column adds to a recipe."""
    return {
        "none": [],
        "identity": ["--losses.identity", str(identity)],
        "triplet": ["--losses.triplet", str(triplet)],
    }


def visage(*words: object) -> dict[str, Any]:
    """Carry a verb out; return its last line."""
    sys.stderr.write(f"visage {' '.join(map(str, words))}\n")
    told = subprocess.run(
        [VISAGE, *map(str, words), "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    said: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return said


def prepare(home: Path) -> Path:
    """Curate and prepare the photographs; return the features' folder."""
    source = Path(os.environ["VISAGE_TEST_DATA"]) / "lfw-dev.tar"
    if not tarfile.is_tarfile(source):
        sys.exit(f"{source} is no tar of photographs: set VISAGE_TEST_DATA to its folder.")
    run = visage("curate", "lfw", "--source.path", source, "--store", home / "store")["path"]
    visage("prepare", "lfw64", "--corpus", run, "--out", home / "features")
    return home / "features"


def with_words(export: Path, home: Path) -> Path:
    """Put a text encoder beside a base, so that Arc2Face has a prompt to put people into."""
    if home.exists():
        return home
    from transformers import CLIPTextConfig, CLIPTextModel

    from training.nets.clip_presets import TINY_VOCABULARY, Marks, byte_tokenizer
    from training.nets.references import seeded

    width = int(json.loads((export / "unet/config.json").read_text())["cross_attention_dim"])
    marks = Marks.of(TINY_VOCABULARY)
    config = CLIPTextConfig(
        vocab_size=TINY_VOCABULARY, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=4, num_attention_heads=4, bos_token_id=marks.begin,
        eos_token_id=marks.end, pad_token_id=marks.end,
    )  # fmt: skip
    beside = home.with_name(f".{home.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(export / "unet", beside / "unet")
    seeded(lambda: CLIPTextModel(config), 0).save_pretrained(beside / "text_encoder")
    tokenizer = byte_tokenizer(TINY_VOCABULARY, fills_with_zero=False)
    tokenizer.save_pretrained(beside / "tokenizer")
    beside.replace(home)
    return home


def runs(asked: argparse.Namespace) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """Train and score everything; yield method, loss, seed and what `evaluate` says."""
    home = asked.home.absolute()
    features = asked.features.absolute() if asked.features else prepare(home)
    alike = ["--data.path", features, "--out", home / "trained", "--batch", asked.batch,
             "--microbatch", asked.batch, "--scale.threads", asked.threads]  # fmt: skip
    ends = ["--steps", asked.base_steps, "--save-every", asked.base_steps]
    base = visage("train", "lfw64_base", *alike, *ends, "--method.width", asked.width)
    export = Path(base["export"])
    prompted = with_words(export, home / f"base-{Path(base['path']).name}")
    scored = ["--people", asked.people, "--seeds", 1, "--steps", asked.drawing_steps]
    if asked.clip:
        scored += ["--clip", asked.clip]
    for seed in asked.seeds:
        for method, settings in METHODS.items():
            where = prompted if method == "Arc2Face" else export
            ends = ["--steps", asked.steps, "--save-every", asked.steps, "--seed", seed]
            for name, losses in losses_of(asked.identity, asked.triplet).items():
                run = visage("train", "lfw64_adapter", *alike, *ends, *settings, *losses,
                             "--base.weights", f"file:{where}")  # fmt: skip
                yield method, name, seed, visage("evaluate", run["path"], *scored)


def line(method: str, losses: str, seed: int, told: dict[str, Any]) -> str:
    """Return one row of the table."""
    cells = [method, losses, str(seed)]
    for name in SCORES:
        score = told["scores"].get(name)
        cells.append(
            f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})" if score else "-"
        )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--features", type=Path, help="of `visage prepare lfw64`, if there are")
    parser.add_argument("--base-steps", type=int, default=1800)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=96, help="of the base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--identity", type=float, default=0.1, help="weight of that loss")
    parser.add_argument("--triplet", type=float, default=0.1, help="weight of that loss")
    parser.add_argument("--people", type=int, default=200, help="held-out people, at most")
    parser.add_argument("--drawing-steps", type=int, default=30)
    parser.add_argument("--clip", default="", help="for CLIP-T: file:<folder>")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    asked.home.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    absent: dict[str, str] = {}
    for found in runs(asked):
        rows.append(line(*found))
        absent |= {n: why for n, why in found[3]["absent"].items() if n in SCORES}
        sys.stderr.write(f"{rows[-1]}\n")
    print(f"base {asked.base_steps} steps, then {asked.steps} each, batch {asked.batch}, at most "
          f"{asked.people} held-out people, 95 % over people")  # fmt: skip
    print(
        f"| method | losses | seed | {' | '.join(SCORES)} |\n|---|---|---:|{'---:|' * len(SCORES)}"
    )
    print("\n".join(rows))
    for name, why in absent.items():
        print(f"{name} is absent: {why}")


if __name__ == "__main__":
    main()
