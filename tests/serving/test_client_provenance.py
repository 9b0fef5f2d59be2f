import asyncio

import pytest

from serving.client import AsyncVisage, Visage
from serving.client_provenance import AsyncProvenance, Provenance
from serving.errors import Refusal
from tests.serving.doors import door, serving, she


def test_a_picture_is_asked_where_it_is_from_and_people_in_it_are_hidden():
    with serving(door()[0]) as url:
        with Visage(url) as visage:
            provenance = Provenance(visage)
            drawn = visage.generate("a", seed=1).pictures[0]
            assert provenance.inspect(drawn)["verdict"] == "made_here"
            kept = provenance.anonymise(she(), keep=[she()])
            assert (kept.told["kept"], kept.told["hidden"]) == (True, 0)
            assert kept.picture.startswith(b"\xff\xd8\xff")
            with pytest.raises(Refusal, match="how"):
                provenance.anonymise(she(), how="swap")

        async def without_waiting():
            async with AsyncVisage(url) as visage:
                provenance = AsyncProvenance(visage)
                hidden = await provenance.anonymise(she(), how="cover", output_format="webp")
                return hidden, await provenance.inspect(hidden.picture)

        hidden, found = asyncio.run(without_waiting())
    assert hidden.told["hidden"] == 1
    assert found["credential"]["state"] == "trusted"
