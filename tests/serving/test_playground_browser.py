"""All of the page at `/`, in a browser."""

import re
from contextlib import contextmanager
from dataclasses import replace

import pytest

from serving.errors import Refusal
from serving.jobs.settings import VideoSettings
from serving.keys import Keys
from tests.serving.browser import CHROMIUM, browsing
from tests.serving.doors import INFO, PlainImages, door, he, serving, she, videos
from tests.serving.jobs.drawers import Sums
from tests.serving.test_routes_videos import drawing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium is installed"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def photos(tmp_path):
    for name, blob in (("she.jpg", she()), ("he.jpg", he()), ("no.txt", b"no picture")):
        (tmp_path / name).write_bytes(blob)
    return tmp_path


@contextmanager
def opened(page, app, tab="images"):
    """Open the page of an application; whatever goes wrong in it fails the test."""
    page.errors.clear()
    page.requests.clear()
    page.shape(1280)
    with serving(app) as url:
        page.open(f"{url}/#{tab}")
        page.wait("document.querySelector('#served').textContent")
        yield page
        page.js("sessionStorage.clear()")
        own = (url, "blob:", "data:")
        assert [u for _, u in page.requests if not u.startswith(own)] == []
        assert page.errors == []
        page.call("Page.navigate", url="about:blank")  # lets go of the server


@pytest.fixture
def here(tmp_path):
    return {"records": str(tmp_path / "serving.db"), "videos": videos(tmp_path / "videos")}


def test_a_picture_is_drawn_once_consent_is_given_and_shows_what_it_proves(page, photos):
    app, images = door()
    with opened(page, app):
        page.choose("#images-photos", photos / "she.jpg")
        page.fill("#images-prompt", "a portrait")
        page.fill("#images-seed", "7")
        page.fill("#images-scale", "1.5")
        page.fill("#images-start", "3")
        page.fill("#images-n", "2")
        page.click("#images-form [data-submit]")
        page.wait_text("#images-consent-error", "Nothing was sent")
        assert page.focused() == "images-consent"
        assert page.sent("/v1/images/generations") == []
        page.press(" ", "Enter")
        page.wait("document.querySelectorAll('[data-verdict=made_here]').length === 2")
        page.wait_text("#images-status", "2 pictures are drawn")
        asked = images.asks[0]
        assert (asked.prompt, asked.seed, asked.pictures) == ("a portrait", 7, 2)
        assert (asked.identity_scale, asked.start_step, asked.previews) == (1.5, 3, 3)
        assert asked.reference is not None
        assert page.text(".badge summary") == "Credential holds"
        alt = "document.querySelector('#gallery img').alt"
        assert page.js(alt) == "Drawn from “a portrait”, seed 8"
        page.choose("#images-photos", photos / "he.jpg")
        page.wait("!document.querySelector('#images-consent').checked")


def test_drawing_can_be_stopped(page):
    app, images = door(PlainImages(seconds=60))
    with opened(page, app):
        page.click("#images-consent")
        page.click("#images-form [data-submit]")
        page.wait("document.querySelector('#images-progress').value === 75")
        page.click("#images-stage [data-stop]")
        page.wait("document.querySelector('#images-stage').hidden")
        assert page.text("#images-form [data-problem]") == ""
        assert images.cancelled.wait(30)


def test_a_refusal_is_shown_as_it_was_said_with_its_number(page, photos):
    no = Refusal("overloaded", "Too many wait; ask again.", retry_after_s=1)
    with opened(page, door(PlainImages(error=no))[0]):
        page.choose("#images-photos", photos / "no.txt")
        page.wait_text("#images-photos-problem", "no.txt is no JPEG, PNG or WebP.")
        page.click("#images-consent")
        page.click("#images-form [data-submit]")
        page.wait_text("#images-form [data-problem]", "Too many wait; ask again.")
        assert re.search(r"Request \w{32}$", page.text("#images-form [data-problem]"))
        assert page.js("document.querySelector('#images-stage').hidden")


def test_photographs_can_be_dropped(page):
    with opened(page, door()[0]):
        page.js(
            "(() => { const dropped = new DataTransfer(); dropped.items.add(new File(['x'], "
            "'me.png', {type: 'image/png'})); document.querySelector('.drop').dispatchEvent("
            "new DragEvent('drop', {dataTransfer: dropped, cancelable: true})); })()"
        )
        page.wait("document.querySelector('#images .thumbs img')?.alt === 'me.png'")
        page.click("#images .thumbs button")
        page.wait("!document.querySelector('#images .thumbs img')")
        assert page.focused() == "images-photos"


def test_the_keyboard_goes_everywhere(page):
    with opened(page, door()[0]):
        page.js("document.querySelector('#tab-images').focus()")
        page.press("ArrowRight", "ArrowRight")
        assert page.focused() == "tab-faces"
        assert page.js("location.hash") == "#faces"
        page.press("End", "ArrowRight", "ArrowLeft")
        assert page.focused() == "tab-people"
        page.press("Home", "Tab")
        assert page.focused() == "images"
        page.press("Tab")
        assert page.focused() == "images-photos"
        shown = "getComputedStyle(document.querySelector('#images .drop')).outlineStyle"
        assert page.js(shown) == "solid"


@pytest.mark.parametrize("tab", ["images", "videos", "faces", "people"])
def test_every_tab_fits_a_small_screen_in_both_schemes_and_names_its_fields(page, here, tab):
    with opened(page, door(**here)[0], tab):
        grounds = set()
        for scheme in ("light", "dark"):
            page.shape(360, scheme=scheme)
            assert page.js("document.documentElement.scrollWidth") <= 360
            grounds.add(page.js("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2
        unnamed = (
            f"[...document.querySelectorAll('#{tab} :is(input, select, textarea, button)')]"
            ".filter(f => !(f.labels?.length || f.ariaLabel || f.textContent.trim())).length"
        )
        assert page.js(unnamed) == 0


def test_faces_are_outlined_and_compared(page, photos):
    with opened(page, door()[0], "faces"):
        for field, name in (("detect-photo", "she"), ("verify-a", "she"), ("verify-b", "he")):
            page.choose(f"#{field}", photos / f"{name}.jpg")
        for form in ("detect", "verify"):
            page.click(f"#{form}-form [data-submit]")
            page.wait_text(f"#{form}-consent-error", "Nothing was sent")
            assert page.sent(f"/v1/faces/{form}") == []
            page.click(f"#{form}-consent")
            page.click(f"#{form}-form [data-submit]")
        page.wait_text("#detected", "One face")
        assert page.js("document.querySelectorAll('.seen rect').length") == 1
        assert page.js("document.querySelector('.seen path').getAttribute('d')").count("M") == 5
        page.wait_text("#verified", "Two different people")
        assert "below 0.600" in page.text("#verified")


def test_a_person_is_enrolled_chosen_renewed_and_forgotten(page, photos, here):
    app, images = door(**here)
    with opened(page, app, "people"):
        page.choose("#enrol-photos", photos / "she.jpg")
        page.fill("#enrol-name", "Eileen")
        page.fill("#enrol-evidence", "form 7")
        page.click("#enrol-consent")
        page.click("#enrol-form [data-submit]")
        page.wait_text("#enrol-form [data-problem]", "“What for” is empty")
        page.fill("#enrol-purpose", "a campaign")
        page.click("#enrol-form [data-submit]")
        page.wait_text("#people-list", "Eileen")
        assert "form 7" in page.text("#people-list")
        assert page.text("#people-status") == "Eileen is enrolled."
        page.click("#tab-images")
        person = page.js("document.querySelector('#people-list li').dataset.person")
        page.fill("#images-person", person)
        page.click("#images-consent")
        page.click("#images-form [data-submit]")
        page.wait("document.querySelector('#gallery figure')")
        assert images.asks[0].reference is not None
        page.click("#tab-people")
        page.click("#people-list button")
        page.fill("#renew-evidence", "form 8")
        page.click("#renew-form [data-submit]")
        page.wait_text("#people-list", "form 8")
        assert "Eileen" in page.text("#people-list")
        page.click("#people-list button:last-child")
        page.wait_text("#forget", "Everything of Eileen is removed")
        page.click("#forget-form [data-submit]")
        page.wait("!document.querySelector('#people-empty').hidden")
        assert page.js("document.querySelector('#images-person').options.length") == 1


def test_a_video_is_queued_followed_and_played(page, here):
    app, _ = door(**here)
    with opened(page, app, "videos"), drawing(app, Sums(seconds=0.02)):
        page.fill("#videos-prompt", "she turns")
        page.click("#videos-form [data-submit]")
        page.wait_text("#videos-consent-error", "Nothing was sent")
        page.click("#videos-consent")
        page.click("#videos-form [data-submit]")
        page.wait_text("#jobs", "Done")
        page.click("#jobs button")
        page.wait("document.querySelector('#jobs video')?.videoWidth > 0")
        assert page.text("#jobs .problem") == ""


def test_a_waiting_video_is_cancelled(page, here):
    with opened(page, door(**here)[0], "videos"):
        page.click("#videos-consent")
        page.click("#videos-form [data-submit]")
        page.wait_text("#jobs", "Waiting")
        page.click("#jobs button")
        page.wait_text("#jobs", "Cancelled")
        page.wait("!document.querySelector('#jobs button')")


def test_a_key_stays_in_the_tab(page, tmp_path):
    keys = Keys(tmp_path / "keys.db", make=True)
    key = keys.add("me", ("images", "models"))
    with opened(page, door(keys=keys)[0]):
        page.wait("document.querySelector('#key').open")
        assert page.focused() == "key-field"
        assert "asks for an API key" in page.text("#served")
        for sent, told in (("vsg_wrong", "not known"), (key, "someone/3")):
            page.wait("document.activeElement.id === 'key-field'")
            page.fill("#key-field", sent)
            page.press("Enter")
            page.wait_text("#served", told)
        kept = "[sessionStorage.length, localStorage.length, document.cookie, location.search]"
        assert page.js(kept) == [1, 0, "", ""]
        page.click("#tab-people")
        page.wait_text("#people [data-absent]", "faces")  # the scope that this key lacks


def test_what_is_not_offered_is_said_calmly(page):
    app, _ = door(videos=VideoSettings())
    app.state.door.images = None
    with opened(page, app):
        page.wait_text("#images", "only faces are measured")
        assert page.text("#served") == "Serving faces"
        page.click("#tab-videos")
        assert "No video model is served here." in page.text("#videos")
        assert not page.js("document.querySelector('#videos form').checkVisibility()")


def test_a_model_without_words_is_asked_for_none(page):
    app, _ = door(PlainImages(replace(INFO, takes_text=False)))
    with opened(page, app):
        assert not page.js("document.querySelector('#images-prompt').checkVisibility()")
        assert "draws from the face alone" in page.text("#images")
