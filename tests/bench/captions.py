"""Captions per second: of the template, and of a server on loopback that thinks for a while.

The server answers after a fixed time whatever it is asked, as many at a time as it is asked: what
is measured is ours (decoding, encoding, HTTP, checks, redaction), not a model. Run as
``python -m tests.bench.captions``.
"""

import argparse
import io
import json
import time

import numpy as np
from PIL import Image

from stages.captions.http import HttpCaptioner
from stages.captions.settings import CaptionSettings, EndpointSettings
from stages.captions.stage import Caption
from tests.pipelines.captioning import row
from tests.stages.captions.servers import Says, serving, well

SIDE_PX = 1024
ANSWER_S = 0.25


def photographs(number):
    """Return rows with pictures of 1024 px, no two alike."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(number):
        small = rng.integers(0, 256, (32, 32, 3), np.uint8)
        packed = io.BytesIO()
        Image.fromarray(small).resize((SIDE_PX, SIDE_PX)).save(packed, "JPEG", quality=90)
        rows.append(row(index, blob=packed.getvalue(), width_px=SIDE_PX, height_px=SIDE_PX))
    return rows


def captions_per_s(stage, rows):
    """Caption rows; return how many per second were, and how many output tokens."""
    batch = {name: [each[name] for each in rows] for name in stage.reads}
    began = time.perf_counter()
    told = stage(batch)
    seconds = time.perf_counter() - began
    assert set(told["error"]) | set(told["rejected_by"]) == {""}
    return len(rows) / seconds, sum(told["caption_output_tokens"]) / seconds


def by_template(rows):
    return captions_per_s(Caption(CaptionSettings(backend="template")), rows)


def by_http(rows, concurrency):
    with serving([Says(well().body, after_s=ANSWER_S)]) as server:
        endpoint = EndpointSettings(url=server.url, model="tiny", concurrency=concurrency)
        settings = CaptionSettings(backend="http", http=endpoint)
        stage = Caption(settings, lambda: HttpCaptioner(endpoint, settings.max_tokens))
        return captions_per_s(stage, rows)


def main(pictures=256, concurrency=32):
    """Print one JSON object."""
    template, _ = by_template([row(n) for n in range(20 * pictures)])
    http, tokens = by_http(photographs(pictures), concurrency)
    result = {
        "template_captions_per_s": round(template),
        "http_captions_per_s": round(http, 1),
        "http_output_tokens_per_s": round(tokens, 1),
        "http_most_captions_per_s": concurrency / ANSWER_S,
        "concurrency": concurrency,
    }
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--concurrency", type=int, default=32)
    main(**vars(parser.parse_args()))
