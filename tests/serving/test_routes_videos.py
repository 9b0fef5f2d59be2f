import asyncio
import json
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import openai
import pytest
from PIL import Image

from serving.database import open_database
from serving.jobs.worker import make_runner
from serving.keys import Keys
from serving.people.protected import Protected
from serving.recipes import HttpSettings
from tests.serving.doors import (
    door,
    faces,
    refused,
    serving,
    she,
    videos,
    visitor,
)
from tests.serving.jobs.drawers import Sums, until
from tests.serving.test_routes_people import enrol
from tests.stages.models.photos import astronaut

VIDEOS = "/v1/videos"


@pytest.fixture
def here(tmp_path):
    return {"records": str(tmp_path / "serving.db"), "videos": videos(tmp_path / "videos")}


@pytest.fixture
def me(here):
    return visitor(door(**here)[0])


@contextmanager
def drawing(app, drawer=None):
    """Let a worker draw beside an application."""
    runner = make_runner(app.state.door.recipe, faces(), drawer or Sums())
    runner.start()
    try:
        yield
    finally:
        runner.stop(30)


def finished(me, video):
    until(
        lambda: me.get(f"{VIDEOS}/{video['id']}").json()["status"] not in ("queued", "in_progress")
    )
    return me.get(f"{VIDEOS}/{video['id']}").json()


def happened(answer):
    """Return a stream's events: id, type, data."""
    blocks = [dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
              for block in answer.text.strip().split("\n\n")]  # fmt: skip
    return [
        (int(one["id"]), one["event"], json.loads(one["data"])) for one in blocks if "id" in one
    ]


def test_a_video_is_asked_for_drawn_followed_and_fetched(here):
    app, _ = door(**here)
    me = visitor(app)
    asked = me.post(VIDEOS, json={"prompt": "a dance", "seconds": 2, "size": "64x48", "seed": 7})
    assert asked.status_code == 200, asked.text
    video = asked.json()
    assert (video["status"], video["progress"], video["expires_at"]) == ("queued", 0, None)
    assert (video["size"], video["seconds"], video["frames"]) == ("64x48", "2", 16)
    with drawing(app):
        events = happened(me.get(f"{VIDEOS}/{video['id']}/events"))
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    kinds = [kind for _, kind, _ in events]
    assert list(dict.fromkeys(kinds)) == ["video.queued", "video.in_progress", "video.completed"]
    behind = me.get(f"{VIDEOS}/{video['id']}/events", headers={"Last-Event-ID": "2"})
    assert happened(behind) == events[2:]
    last = {"Last-Event-ID": str(events[-1][0])}
    assert me.get(f"{VIDEOS}/{video['id']}/events", headers=last).text == ""
    done = me.get(f"{VIDEOS}/{video['id']}").json()
    assert (done["status"], done["progress"], done["error"]) == ("completed", 100, None)
    assert done["expires_at"] - done["completed_at"] == 86400
    assert me.get(VIDEOS).json()["data"] == [done]
    whole = me.get(f"{VIDEOS}/{video['id']}/content")
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.content[4:8] == b"ftyp"
    part = me.get(f"{VIDEOS}/{video['id']}/content", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert me.delete(f"{VIDEOS}/{video['id']}").json()["status"] == "completed"
    refused(me.get(f"{VIDEOS}/{video['id']}/content"), "unknown_video")


def test_the_tiny_model_draws_for_openais_own_client(here):
    app, _ = door(**here)
    with serving(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        video = client.videos.create(prompt="a dance", seconds="4", size="64x64")
        runner = make_runner(app.state.door.recipe, faces())
        runner.start()
        until(lambda: client.videos.retrieve(video.id).status == "completed", 120)
        runner.stop(30)
        assert client.videos.download_content(video.id).content[4:8] == b"ftyp"
        assert [one.id for one in client.videos.list()] == [video.id]
        assert client.videos.delete(video.id).deleted


def test_the_same_request_under_the_same_key_is_the_same_job(me):
    once = {"Idempotency-Key": "order-1"}
    ask = {"prompt": "a", "seed": 1}
    first = me.post(VIDEOS, json=ask, headers=once).json()
    assert me.post(VIDEOS, json=ask, headers=once).json() == first
    error = refused(me.post(VIDEOS, json={**ask, "seed": 2}, headers=once), "idempotency_conflict")
    assert error["details"] == {"id": first["id"]}
    assert me.post(VIDEOS, json=ask).json()["id"] != first["id"]
    refused(me.post(VIDEOS, json=ask, headers={"Idempotency-Key": "a b"}), "invalid_value")


def test_an_unfinished_video_has_no_content_and_can_be_cancelled_once(me):
    video = me.post(VIDEOS, json={"prompt": "a"}).json()
    error = refused(me.get(f"{VIDEOS}/{video['id']}/content"), "not_finished")
    assert error["details"] == {"status": "queued", "progress": 0}
    gone = me.delete(f"{VIDEOS}/{video['id']}").json()
    assert gone == {
        "id": video["id"], "object": "video.deleted", "deleted": True, "status": "cancelled"
    }  # fmt: skip
    refused(me.get(f"{VIDEOS}/{video['id']}/content"), "no_result")
    refused(me.delete(f"{VIDEOS}/{video['id']}"), "already_cancelled")
    assert me.get(f"{VIDEOS}/{video['id']}").json()["status"] == "cancelled"
    assert happened(me.get(f"{VIDEOS}/{video['id']}/events"))[-1][1] == "video.cancelled"


def test_it_can_be_looked_at_while_it_is_drawn(tmp_path):
    settings = videos(tmp_path / "videos", checkpoint_s=0.0, steps=20)
    app, _ = door(records=str(tmp_path / "serving.db"), videos=settings)
    me = visitor(app)
    video = me.post(VIDEOS, json={"prompt": "a", "size": "64x48"}).json()
    there = f"{VIDEOS}/{video['id']}/preview"
    refused(me.get(there), "no_preview")
    with drawing(app, Sums(0.2)):
        until(lambda: me.get(there).status_code == 200)
        shown = me.get(there)
        assert shown.headers["content-type"] == "image/jpeg"
        assert Image.open(BytesIO(shown.content)).size == (64, 48)
        me.delete(f"{VIDEOS}/{video['id']}")
        refused(me.get(there), "no_preview")


@pytest.mark.parametrize(
    ("ask", "code", "words"),
    [
        ({"seconds": 9}, "invalid_value", "seconds cannot be '9.0'"),
        ({"frames": 33}, "invalid_value", "draws 32 at most"),
        ({"frames": 3, "seconds": 1}, "invalid_value", "they are 8"),
        ({"size": "60x64"}, "invalid_value", "multiples of 16"),
        ({"size": "4096x64"}, "invalid_value", "at most 1024"),
        ({"steps": 101}, "invalid_value", "1 to 100"),
        ({"seconds": "long"}, "invalid_value", "seconds"),
        ({"model": "sora-2"}, "unknown_model", "random:tiny-animatediff is served"),
        ({"input_reference": "x"}, "unknown_field", "input_reference"),
        ({"identity": "https://x/y.jpg"}, "url_not_accepted", "Nothing is fetched"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_cure(me, ask, code, words):
    assert words in refused(me.post(VIDEOS, json={"prompt": "a", **ask}), code)["message"]


@pytest.mark.parametrize("id", ["video_1", "video_" + "0" * 24, "..%2f..%2fetc"])
def test_an_id_of_no_video_is_told_so(me, id):
    for path in ("", "/content", "/preview", "/events"):
        answer = me.get(f"{VIDEOS}/{id}{path}")
        assert answer.json()["error"]["code"] in ("unknown_video", "not_found")
        assert answer.status_code == 404


def test_pages_and_event_numbers_are_checked(me):
    for query in ("limit=0", "limit=101", "limit=x", "order=up"):
        refused(me.get(f"{VIDEOS}?{query}"), "invalid_value")
    refused(me.get(f"{VIDEOS}?after=me"), "unknown_video")
    video = me.post(VIDEOS, json={"prompt": "a"}).json()["id"]
    seen = me.get(f"{VIDEOS}/{video}/events", headers={"Last-Event-ID": "x"})
    refused(seen, "invalid_value")


def test_a_stream_ends_quietly_after_the_time_of_a_request(here):
    me = visitor(door(**here, http=HttpSettings(timeout_s=1))[0])
    video = me.post(VIDEOS, json={"prompt": "a"}).json()["id"]
    assert [kind for _, kind, _ in happened(me.get(f"{VIDEOS}/{video}/events"))] == ["video.queued"]


def test_where_no_video_model_is_served_that_is_said(here):
    here["videos"] = replace(here["videos"], model="")
    me = visitor(door(**here)[0])
    assert me.get(VIDEOS).json()["data"] == []
    refused(me.post(VIDEOS, json={"prompt": "a"}), "unknown_model")


def test_frames_are_charged_once_however_often_a_request_is_sent(here, tmp_path):
    keys = Keys(tmp_path / "keys.db", make=True)
    token = keys.add("team", scopes=("images",), quota_per_day=20)
    other = keys.add("other", scopes=("images",))
    app, _ = door(keys=keys, **here)
    me, stranger = (visitor(app, Authorization=f"Bearer {one}") for one in (token, other))
    once = {"Idempotency-Key": "order-1"}
    for _ in range(3):
        video = me.post(VIDEOS, json={"prompt": "a", "seed": 1}, headers=once).json()["id"]
    refused(me.post(VIDEOS, json={"prompt": "a"}), "quota_exceeded")
    assert me.post(VIDEOS, json={"prompt": "a", "frames": 4}).status_code == 200
    refused(stranger.get(f"{VIDEOS}/{video}"), "unknown_video")
    refused(stranger.delete(f"{VIDEOS}/{video}"), "unknown_video")
    refused(visitor(app).get(VIDEOS), "missing_key")


def test_a_person_is_drawn_by_id_and_forgotten_with_their_videos(here):
    app, _ = door(**here)
    me, drawer = visitor(app), Sums()
    person = enrol(me).json()["id"]
    asked = []
    drawer.begin = lambda ask: asked.append(ask) or Sums().begin(ask)
    done = me.post(VIDEOS, json={"prompt": "a", "identity": person}).json()
    other = me.post(VIDEOS, files=[("identity", she())], data={"prompt": "a"}).json()
    assert (done["identity"], other["identity"]) == (person, "")
    with drawing(app, drawer):
        assert [finished(me, one)["status"] for one in (done, other)] == ["completed"] * 2
    assert abs(asked[0].reference.vector - asked[1].reference.vector).max() < 1e-5
    waiting = me.post(VIDEOS, json={"prompt": "b", "identity": person}).json()
    assert me.delete(f"/v1/people/{person}").json()["erased"]
    for gone in (done, waiting):
        refused(me.get(f"{VIDEOS}/{gone['id']}"), "unknown_video")
    left = [one.name for one in Path(here["videos"].folder).iterdir()]
    assert left == [other["id"]]
    refused(me.post(VIDEOS, json={"prompt": "b", "identity": person}), "unknown_person")


def test_whoever_is_forgotten_while_a_job_waits_is_not_drawn(here):
    app, _ = door(**here)
    me, drawer = visitor(app), Sums()
    person = enrol(me).json()["id"]
    video = me.post(VIDEOS, json={"prompt": "a", "identity": person}).json()
    app.state.door.guard.people.forget(person, "")  # between the forgetters and the worker
    with drawing(app, drawer):
        failed = finished(me, video)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "unknown_person")
    assert drawer.steps == []


def test_a_protected_person_is_neither_asked_for_nor_let_out(here):
    app, _ = door(**here)
    me = visitor(app)
    video = me.post(VIDEOS, json={"prompt": "a", "size": "512x512", "frames": 1}).json()
    reference = asyncio.run(faces().reference([she()]))
    listed = Protected(open_database(here["records"]))
    listed.add(reference.vector[None], reference.embedder, "")
    refused(me.post(VIDEOS, files=[("identity", she())]), "protected_person")
    drawer = Sums()
    drawer.frames = lambda *_: astronaut()[None]
    with drawing(app, drawer):
        failed = finished(me, video)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "protected_person")
    assert not list(Path(here["videos"].folder).rglob("*.mp4"))
