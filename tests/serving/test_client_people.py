import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from serving.client import AsyncVisage, Visage
from serving.client_people import AsyncPeople, People
from serving.errors import Refusal
from tests.serving.doors import data, door, he, serving, she

GREY = data(np.full((64, 64, 3), 120, dtype=np.uint8), "PNG")
UNTIL = datetime.now(UTC) + timedelta(days=30)
CONSENT = {"purpose": "a campaign", "until": UNTIL, "evidence": "form 7"}


@pytest.fixture
def served(tmp_path):
    app, images = door(records=str(tmp_path / "serving.db"))
    with serving(app) as url:
        yield url, images


def test_a_person_goes_through_all_of_it(served, tmp_path):
    url, images = served
    (tmp_path / "she.jpg").write_bytes(she())
    with Visage(url) as visage:
        people = People(visage)
        ada = people.enrol([tmp_path / "she.jpg"], **CONSENT, subject_name="Ada")["id"]
        bob = people.enrol([he()], **CONSENT)["id"]
        assert [one["id"] for one in people.all()] == [ada, bob]
        assert [one["id"] for one in people.search(he(), limit=1)["data"]] == [bob]
        renewed = people.renew(ada, **(CONSENT | {"purpose": "more"}), granted_at=UNTIL.now(UTC))
        assert renewed == people.get(ada)
        told = renewed["consent"]
        assert (told["purpose"], told["subject_name"]) == ("more", "Ada")
        visage.generate("a", identity=[ada], seed=1)
        visage.edit(GREY, prompt="a", identity=[ada])
        assert images.asks[0].reference is not None
        assert np.array_equal(images.asks[0].reference.vector, images.asks[1].reference.vector)
        with pytest.raises(Refusal, match="give photographs, or the id"):
            visage.generate("a", identity=[ada, she()])
        assert people.forget(ada)["deleted"]
        with pytest.raises(Refusal, match="were forgotten"):
            people.get(ada)


def test_a_person_does_so_without_waiting(served):
    url, _ = served

    async def talk():
        async with AsyncVisage(url) as visage:
            people = AsyncPeople(visage)
            ada = (await people.enrol([she()], **CONSENT))["id"]
            assert [one["id"] async for one in people.all()] == [ada]
            assert await people.renew(ada, **CONSENT) == await people.get(ada)
            assert (await people.search(she()))["data"][0]["same_person"]
            return (await people.forget(ada))["erased"]

    assert asyncio.run(talk())
