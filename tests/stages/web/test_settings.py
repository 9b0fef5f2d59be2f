import pytest

from infra.errors import BadValue
from stages.web.settings import IMAGES, FetchSettings


@pytest.mark.parametrize(
    "changes",
    [
        {"contact": "me"}, {"contact": "me@host"}, {"contact": "a@b.example\r\nX: y"},
        {"contact": "ftp://a.example"}, {"contact": "a@b.example)"},
        {"concurrency": 0}, {"per_host": 0}, {"rate_per_host_s": -1.0}, {"attempts": 0},
        {"budget_s": 0.0}, {"connect_s": 0.0}, {"first_byte_s": -1.0}, {"deadline_s": 0.0},
        {"max_bytes": 0}, {"max_video_bytes": 0}, {"max_header_bytes": 100}, {"max_redirects": -1},
        {"types": ()},
        {"allow_private": ("10.0.0.1/8",)}, {"allow_private": ("localhost",)},
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_the_name_of_its_setting(changes):
    (name,) = changes
    with pytest.raises(BadValue, match=rf"fetch\.{name} cannot be"):
        FetchSettings(**changes)


@pytest.mark.parametrize("contact", ["me@lab.example", "https://lab.example/bot?x=1"])
def test_a_contact_is_an_address_or_a_page(contact):
    assert FetchSettings(contact=contact, allow_private=("10.0.0.0/8", "fd00::/8"))


def test_videos_have_a_cap_of_their_own():
    settings = FetchSettings(types=(*IMAGES, "video/mp4"), max_bytes=5, max_video_bytes=7)
    assert settings.takes_videos
    assert not FetchSettings().takes_videos
    assert (settings.cap_bytes("image/png"), settings.cap_bytes("video/mp4")) == (5, 7)
