import unicodedata

import pytest

from infra.errors import BadValue
from stages.words import TERM_LISTS, human_terms, terms


def found(caption, *lists):
    return human_terms([caption], lists or TERM_LISTS)[0]


@pytest.mark.parametrize("name", TERM_LISTS)
def test_every_term_finds_itself(name):
    assert human_terms(terms(name), [name]) == terms(name)


def test_no_term_stands_twice():
    everything = [term.lower() for name in TERM_LISTS for term in terms(name)]
    assert len(everything) == len(set(everything))


def test_every_caption_gets_one_answer():
    captions = ["a nurse", "", "a red car", "two boys and a girl"]
    assert human_terms(captions, TERM_LISTS) == ["nurse", "", "", "boy"]


@pytest.mark.parametrize(
    "caption",
    ["mango", "Germany", "a personality test", "humanity", "womanhood", "Laos", "12", "…"],
)
def test_a_term_inside_another_word_is_not_found(caption):
    assert found(caption) == ""


@pytest.mark.parametrize(
    ("caption", "term"),
    [
        ("two grandmothers", "grandmother"),
        ("the firemen of York", "fireman"),
        ("WOMEN AT WORK", "woman"),
        ("ladies first", "lady"),
        ("actresses", "actress"),
        ("young people", "people"),
        ("police officers", "police officer"),
    ],
)
def test_plurals_are_found(caption, term):
    assert found(caption, "people", "professions") == term


@pytest.mark.parametrize(
    "caption", ["the bride's shoes", "the bride\u2019s shoes", "the brides' shoes"]
)
def test_possessives_are_found(caption):
    assert found(caption) == "bride"


def test_the_first_term_of_the_caption_wins():
    assert found("an Italian chef and his wife") == "italian"
    assert found("a chef and his Italian wife") == "chef"


def test_the_longest_term_wins_where_several_begin():
    assert found("an African American teacher") == "african american"
    assert found("an African teacher") == "african"


def test_a_phrase_that_breaks_off_is_not_found():
    assert found("police car", "professions") == ""
    assert found("the police", "professions") == ""


def test_hyphens_do_not_matter():
    assert found("an African-American museum") == found("an African American museum") != ""


def test_names_are_found_only_with_a_capital():
    assert found("Olga in the snow", "names") == "Olga"
    assert found("OLGA IN THE SNOW", "names") == "Olga"
    assert found("olga in the snow", "names") == ""


def test_words_that_are_also_things_need_their_capital():
    assert found("a Swede in Rome") == "Swede"
    assert found("mashed swede with butter") == ""


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_do_not_matter(form):
    assert found(unicodedata.normalize("NFC", "José at sea")) == found("Jose at sea") == "José"
    assert found(unicodedata.normalize(form, "a Monégasque sailor")) == "monégasque"
    assert found(unicodedata.normalize(form, "İbrahim sings")) == "Ibrahim"


def test_only_the_lists_asked_for_are_used():
    assert found("a French baker named Olga", "professions") == "baker"
    assert found("a French baker named Olga", "names") == "Olga"
    assert found("a French baker named Olga", "ethnicities") == ""
    assert human_terms(["a French baker"], []) == [""]


def test_an_unknown_list_is_refused_with_the_nearest_name():
    with pytest.raises(BadValue, match=r"'profession'.*Did you mean 'professions'\?"):
        human_terms(["a baker"], ["profession"])
