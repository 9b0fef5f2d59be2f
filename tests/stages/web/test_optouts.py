import pytest
from multidict import CIMultiDict

from stages.web.optouts import opt_out


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], ""),
        (["all"], ""),
        (["nofollow, noarchive"], ""),
        (["noai"], "x-robots-tag: noai"),
        (["NoImageAI , NOINDEX"], "x-robots-tag: noimageai; x-robots-tag: noindex"),
        (["none"], "x-robots-tag: none"),
        (["nofollow", "noai"], "x-robots-tag: noai"),
        (["googlebot: noindex, noai"], ""),
        (["googlebot: noindex, visage: noai, nofollow"], "x-robots-tag: noai"),
        (["noindex, googlebot: all"], "x-robots-tag: noindex"),
        (["Visage:noai"], "x-robots-tag: noai"),
        (["*: noai"], "x-robots-tag: noai"),
        (["max-image-preview: none"], ""),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "x-robots-tag: noai"),
        (["", ",,:", "noai:"], ""),
    ],
)
def test_x_robots_tag_is_heard_where_it_means_everybody_or_us(lines, said):
    assert opt_out(CIMultiDict([("X-Robots-Tag", line) for line in lines]), "visage") == said


@pytest.mark.parametrize(("value", "said"), [("1", "tdm-reservation: 1"), ("0", ""), ("11", "")])
def test_a_reservation_of_text_and_data_mining_is_heard(value, said):
    assert opt_out(CIMultiDict({"TDM-Reservation": value}), "visage") == said
