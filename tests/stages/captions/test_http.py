"""The caption server as it is met: slow, busy, broken, gone."""

import socket
import time

import numpy as np
import pytest

from infra.errors import BadValue
from stages.captions import http
from stages.captions.ask import Clip, Frame, Question, ask, describe_clips, describe_pictures
from stages.captions.http import EndpointDown, HttpCaptioner
from stages.captions.prompt import prompt
from stages.captions.settings import CaptionSettings, EndpointSettings
from tests.stages.captions.servers import (
    GOOD,
    MERGED,
    PICTURE,
    Says,
    by_prompt,
    completion,
    serving,
    well,
)


def frame(grey=128):
    return Frame(np.full((32, 48, 3), grey, np.uint8))


def captioner(url, **changes):
    settings = {"attempts": 3, "budget_s": 20.0, "deadline_s": 5.0, "concurrency": 8} | changes
    return HttpCaptioner(EndpointSettings(url=url, model="tiny", **settings), 200)


def describe(server, pictures=1, **changes):
    return describe_pictures(captioner(server.url, **changes), [frame()] * pictures)


def test_a_picture_is_sent_once_with_its_prompt_and_schema_and_the_answer_is_counted():
    with serving([well()]) as server:
        (told,) = describe(server)
    assert (told.fields, told.error, told.asks) == (PICTURE, "", 1)
    assert (told.model, told.input_tokens, told.output_tokens) == ("tiny-vlm", 100, 20)
    assert told.prompts == prompt("picture").tag
    (body,) = server.asked
    picture, text = body["messages"][1]["content"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert "attributes" in text["text"]
    assert body["response_format"]["json_schema"]["schema"]["required"] == list(PICTURE)


@pytest.mark.parametrize(
    "trouble",
    [
        Says(b"busy", 429, headers={"Retry-After": "0"}),
        Says(b"oops", 500),
        Says(b"<html>bad gateway</html>", 502),
        Says(b"<html>fine</html>"),
        Says(b'{"choices": []}'),
        Says(b'{"choices": [{"message": {"content": [1]}}]}'),
        Says(completion(GOOD), claims=10_000),
        Says(hang_up=True),
    ],
    ids=["429", "500", "502", "no JSON", "no choice", "no text", "truncated", "hang-up"],
)
def test_what_may_heal_is_tried_again(trouble):
    with serving([trouble, well()]) as server:
        (told,) = describe(server)
    assert (told.error, told.fields["merged"], len(server.asked)) == ("", MERGED, 2)


def test_a_server_that_asks_for_a_pause_gets_it():
    with serving([Says(b"busy", 429, headers={"Retry-After": "1"}), well()]) as server:
        began = time.monotonic()
        (told,) = describe(server)
    assert told.error == ""
    assert time.monotonic() - began >= 1


def test_an_answer_that_is_too_slow_is_not_waited_for():
    with serving([Says(completion(GOOD), after_s=8.0), well()]) as server:
        (told,) = describe(server, deadline_s=2.0)
    assert told.error == ""
    assert len(server.asked) >= 2


def test_what_does_not_heal_is_an_error_of_its_row_and_not_asked_again():
    with serving([Says(b"too many pixels", 400)]) as server:
        (told,) = describe(server)
    assert (told.error, len(server.asked)) == ("caption_endpoint", 1)
    assert "HTTP 400: too many pixels" in told.detail


def test_one_picture_at_which_the_server_always_fails_costs_one_row():
    def behave(body):
        bad = body["messages"][1]["content"][0]["image_url"]["url"] == frame(1).data_uri
        return Says(b"oops", 500) if bad else well()

    with serving(behave) as server:
        ask_it = captioner(server.url, attempts=2)
        told = describe_pictures(ask_it, [frame(1), frame(), frame()])
        (alone,) = describe_pictures(ask_it, [frame(1)])
    assert [answer.error for answer in told] == ["caption_endpoint", "", ""]
    assert alone.error == "caption_endpoint"
    assert "tries: 2" in alone.detail


def test_a_server_that_is_gone_stops_the_job_with_a_message():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        with pytest.raises(EndpointDown, match=r"gives no answers.*the same command again"):
            describe_pictures(captioner(url, attempts=2), [frame()])


def test_a_server_that_answers_nobody_for_long_stops_the_job(monkeypatch):
    monkeypatch.setattr(http, "HOPELESS_QUESTIONS", 4)
    with serving([Says(b"no vision here", 400)]) as server:
        ask_it = captioner(server.url)
        assert describe_pictures(ask_it, [frame()] * 3)[0].error == "caption_endpoint"
        with pytest.raises(EndpointDown, match=r"6 questions in succession.*no vision here"):
            describe_pictures(ask_it, [frame()] * 3)


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_model_stops_the_job_at_once_and_the_key_is_in_no_message(
    status, monkeypatch
):
    monkeypatch.setenv("VISAGE_CAPTIONS_KEY", "sk-secret")
    refusing = serving([Says(b"not with sk-secret", status)])
    with refusing as server, pytest.raises(EndpointDown) as caught:
        describe(server)
    assert server.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in str(caught.value)


def test_a_wrong_schema_is_repaired_once_by_telling_the_model_what_was_wrong():
    with serving([well('{"merged": 7}'), well(f"Here it is:\n```json\n{GOOD}\n```")]) as server:
        (told,) = describe(server)
    assert (told.error, told.fields, told.asks) == ("", PICTURE, 2)
    assert (told.input_tokens, told.output_tokens) == (200, 40)
    *_, answer, why = server.asked[1]["messages"]
    assert answer == {"role": "assistant", "content": '{"merged": 7}'}
    assert "attributes: Field required" in why["content"]


@pytest.mark.parametrize(
    "text",
    ["", "no JSON", GOOD[:-5], '["a"]', GOOD.replace('"action"', '"deed"'),
     '{"attributes": "", "action": "a", "merged": "b"}'],
    ids=["empty", "prose", "cut short", "a list", "another key", "an empty text"],
)  # fmt: skip
def test_a_schema_that_stays_wrong_is_an_error_after_one_repair(text):
    with serving([well(text)]) as server:
        (told,) = describe(server)
    assert (told.error, told.fields, len(server.asked)) == ("caption_schema", {}, 2)
    assert told.detail


def test_no_more_requests_are_in_flight_than_allowed():
    slow = Says(completion(GOOD), after_s=0.3)
    with serving([slow]) as server:
        told = describe(server, pictures=12, concurrency=3)
    assert [answer.error for answer in told] == [""] * 12
    assert 1 < server.most_busy <= 3


def test_parts_are_asked_of_the_pictures_that_were_described():
    def behave(body):
        bad = body["messages"][1]["content"][0]["image_url"]["url"] == frame(1).data_uri
        return well("never") if bad else by_prompt(body)

    with serving(behave) as server:
        told = describe_pictures(captioner(server.url), [frame(1), frame()], parts=True)
    assert [answer.error for answer in told] == ["caption_schema", ""]
    assert told[1].fields["eyes"] == "an ordinary eyes"
    assert told[1].prompts == f"{prompt('picture').tag}+{prompt('parts').tag}"
    assert told[1].asks == 2
    assert len(server.asked) == 4


def test_a_clip_is_told_from_its_best_frame_and_from_all_of_them():
    with serving(by_prompt) as server:
        clip = Clip(frame(1), (frame(2), frame(3), frame(4)))
        (told,) = describe_clips(captioner(server.url), [clip])
    assert (told.fields, told.error, told.asks) == (PICTURE, "", 3)
    shown = {
        body["response_format"]["json_schema"]["name"]: body["messages"][1]["content"]
        for body in server.asked
    }
    assert shown["attributes"][0]["image_url"]["url"] == frame(1).data_uri
    assert [part["type"] for part in shown["action"]] == ["image_url"] * 3 + ["text"]
    assert PICTURE["attributes"] in shown["merge"]
    assert PICTURE["action"] in shown["merge"]


def test_a_question_without_pictures_is_plain_text():
    with serving([well()]) as server:
        ask(captioner(server.url), [Question(prompt("picture"))])
    assert all(isinstance(turn["content"], str) for turn in server.asked[0]["messages"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CaptionSettings(backend="http"), "captions.http.url"),
        (lambda: CaptionSettings(backend="http", http=EndpointSettings(url="http://h")), "model"),
        (lambda: CaptionSettings(backend="transformers"), "captions.model"),
        (lambda: CaptionSettings(backend="alt", parts=True), "cannot see the parts"),
        (lambda: CaptionSettings(backend="vllm", model="file:m", parts=True), "vllm serve"),
        (lambda: CaptionSettings(human_terms=("nobody",)), "captions.human_terms"),
        (lambda: CaptionSettings(min_words=9, max_words=8), "captions.min_words"),
        (lambda: CaptionSettings(min_match=0.2), "match_model"),
        (lambda: EndpointSettings(url="ftp://h"), "https"),
        (lambda: EndpointSettings(url="http://me:secret@h/v1"), "key_variable"),
        (lambda: EndpointSettings(concurrency=0), "1 or more"),
        (lambda: EndpointSettings(deadline_s=0.0), "more than 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_made(make, words):
    with pytest.raises(BadValue, match=words) as caught:
        make()
    assert "secret" not in str(caught.value)
