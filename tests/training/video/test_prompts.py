"""Prompts for tuning on photographs: ours, or somebody's own."""

import pytest

from infra.errors import BadValue, UnreadableSource
from training.video.prompts import prompts


def test_prompts_are_fifty_or_somebody_s_own(tmp_path):
    assert len(set(prompts("", "woman"))) == 50
    assert prompts("", "woman")[0] == "a woman reading a book in a library"
    own = tmp_path / "prompts.txt"
    own.write_text("a {} asleep\n\n  a {} awake \n")
    assert prompts(str(own), "man") == ["a man asleep", "a man awake"]
    own.write_text("a man asleep\n")
    with pytest.raises(BadValue, match=r"'a man asleep'.* put \{\} where"):
        prompts(str(own), "man")
    own.write_text("\n")
    with pytest.raises(BadValue, match="it is empty"):
        prompts(str(own), "man")
    with pytest.raises(UnreadableSource, match="Name a file of prompts"):
        prompts(str(tmp_path / "none.txt"), "man")
