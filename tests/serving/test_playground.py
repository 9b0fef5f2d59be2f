"""The page at `/`: its files, and what it is told; `test_playground_browser.py` uses it."""

import re

import pytest

from serving.errors import Refusal
from serving.jobs.settings import VideoSettings
from serving.keys import Keys
from serving.routes_playground import CONTENT_SECURITY_POLICY, _pages
from tests.serving.doors import PlainImages, door, refused, visitor

OFFERED = "/playground/offered.json"


def test_the_page_holds_the_browser_to_this_server():
    me = visitor(door()[0])
    answer = me.get("/")
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for wanted in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"):
        assert wanted in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    named = set(re.findall(r'(?:src|href)="playground/([^"]+)"', answer.text))
    for name in named | {"api.js", "people.js"}:
        assert me.get(f"/playground/{name}").status_code == 200, name


@pytest.mark.parametrize("name", sorted(_pages()))
def test_no_file_fetches_anything_from_elsewhere_or_needs_a_weaker_policy(name):
    text = _pages()[name][0].decode()
    elsewhere = set(re.findall(r"https?://[^\s\"'`)]+", text))
    assert elsewhere <= {"http://www.w3.org/2000/svg"}
    inline = re.findall(r"<style|\sstyle=|\son\w+=\"|<script(?! type=\"module\" src=)", text)
    assert name.endswith(".js") or not inline
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|localStorage", text)


@pytest.mark.parametrize("name", ["app.py", "..%2fapp.py", "%2e%2e/app.py", "%00", "index"])
def test_only_files_of_the_page_are_served(name):
    refused(visitor(door()[0]).get(f"/playground/{name}"), "not_found")


def test_a_deployment_can_do_without_the_page():
    me = visitor(door(playground=False)[0])
    for path in ("/", "/playground/main.js", OFFERED):
        refused(me.get(path), "not_found")


def test_the_page_is_everybodys_and_what_is_offered_only_for_keys(tmp_path):
    keys = Keys(tmp_path / "keys.db", make=True)
    app, _ = door(keys=keys, videos=VideoSettings())
    assert visitor(app).get("/").status_code == 200
    refused(visitor(app).get(OFFERED), "missing_key")
    key = keys.add("me", ("models",))
    told = visitor(app, authorization=f"Bearer {key}").get(OFFERED).json()
    assert (told["images"]["offered"], told["images"]["model"]) == (True, "someone/3")
    assert told["videos"] == {"offered": False, "why": "No video model is served here."}


def test_what_does_not_draw_says_why():
    class Away(PlainImages):
        async def info(self, adapter=""):  # noqa: ARG002 - of the protocol
            raise Refusal("model_unavailable", "It is being loaded.", retry_after_s=1)

    told = visitor(door(Away())[0]).get(OFFERED).json()
    assert told["images"] == {"offered": False, "why": "It is being loaded."}


def luminance(colour):
    """Return the relative luminance of WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_all_text_has_the_contrast_that_wcag_asks_for(scheme):
    style = _pages()["playground.css"][0].decode()
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
    for ink in ("ink", "soft", "accent", "wrong"):
        for ground in ("paper", "card", "sunk"):
            one, other = sorted((luminance(colours[ink]), luminance(colours[ground])))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (ink, ground)
    one, other = sorted((luminance(colours["accent"]), luminance(colours["accent-ink"])))
    assert (other + 0.05) / (one + 0.05) >= 4.5
