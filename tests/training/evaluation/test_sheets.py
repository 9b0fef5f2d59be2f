import numpy as np

from training.evaluation.sheets import CELL_PX, Row, contact_sheet, thumbnail


def rows(people):
    return [Row([("reference", coloured(0), ""), ("seed 0", coloured(n + 1), "0.61")])
            for n in range(people)]  # fmt: skip


def coloured(red):
    """A cell of a colour that no word has."""
    return np.full((CELL_PX, CELL_PX, 3), (red, 250, 90), dtype=np.uint8)


def test_small_pictures_are_enlarged_so_that_pixels_show_and_large_ones_fitted():
    small = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    assert np.array_equal(thumbnail(small)[::2, ::2], small)
    assert thumbnail(np.zeros((512, 256, 3), np.uint8)).shape == (CELL_PX, CELL_PX // 2, 3)


def test_every_picture_is_on_the_sheet_once():
    sheet = np.asarray(contact_sheet(rows(5), "a run"))
    for n in range(6):
        found = (sheet == (n, 250, 90)).all(axis=2).sum()
        assert found == CELL_PX**2 * (5 if n == 0 else 1)


def test_words_are_drawn_above_and_below():
    sheet = np.asarray(contact_sheet(rows(1), "a run"))
    ink = (sheet < 160).all(axis=2)
    assert ink[:40].any()
    assert ink[-20:].any()


def test_one_person_is_a_sheet_too():
    assert contact_sheet(rows(1), "").width < contact_sheet(rows(2), "").width
