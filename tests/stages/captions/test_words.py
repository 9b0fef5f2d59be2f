"""Captions without a model, and what is asked of every caption."""

import hashlib
from importlib.resources import files

import pytest
import yaml

from stages.captions.alt import clean
from stages.captions.checks import first_fault, refuses, repeats
from stages.captions.prompt import BadAnswer, prompt
from stages.captions.redact import redact
from stages.captions.settings import CaptionSettings
from stages.captions.stage import MEASURED, Caption
from stages.captions.template import describe
from stages.columns import ERRORS, REJECTIONS
from tests.pipelines.captioning import row

GOOD = "A smiling woman with brown hair stands in front of a grey wall."


def batch(*rows):
    return {name: [each[name] for each in rows] for name in MEASURED}


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Portrait of a woman &amp;amp; child IMG_20391.jpg | Getty Images",
         "Portrait of a woman & child"),
        ("Stock photo: a man <b>running</b> in 1999 - Shutterstock", "a man running in 1999"),
        ("  a boy\n\tlaughs https://example.com/a?b=1 ", "a boy laughs"),
        ("A woman at the sea | Photos | Example.org", "A woman at the sea | Photos"),
        ("DSC_0042.JPG", ""),
        ("cafe\u0301 owner\u200b at work 12345678", "caf\u00e9 owner at work"),
        ("the 1950s-style dress of a woman, 2001-02", "the 1950s-style dress of a woman, 2001-02"),
    ],
)  # fmt: skip
def test_of_an_alt_text_stays_what_speaks_of_the_picture(text, cleaned):
    assert clean(text) == cleaned


def test_a_template_says_what_was_measured():
    told = describe(row(1, face_yaws_deg=[-60.0], face_pitches_deg=[20.0], face_rolls_deg=[-13.0],
                        face_exposures=[0.1], face_area_shares=[0.05]))  # fmt: skip
    assert told["merged"] == (
        "A portrait photograph of one person, a half-length shot in dim light, in profile to the "
        "left, looking up, with the head tilted."
    )
    assert told["attributes"] == (
        "One person in profile to the left, looking up, with the head tilted."
    )
    assert told["action"] == "A half-length shot in dim light, a portrait photograph."


def test_a_template_tells_of_several_people_and_of_none():
    pair = {"num_faces": 2, "face_area_shares": [0.09, 0.05], "face_yaws_deg": [0.0, 50.0],
            "face_pitches_deg": [0.0, 0.0], "face_rolls_deg": [0.0, 0.0],
            "face_exposures": [0.8, 0.2], "width_px": 100, "height_px": 98}  # fmt: skip
    assert describe(pair)["merged"] == (
        "A square photograph of two people, a head-and-shoulders shot in bright light; the nearest "
        "is facing the camera."
    )
    none = describe(pair | {"num_faces": 0, "face_area_shares": []})
    assert none["merged"] == "A square photograph that shows no person's face."


@pytest.mark.parametrize("faces", range(6))
def test_every_template_passes_the_rules_for_captions(faces):
    measures = {name: [0.3] * faces for name in row(1) if name.startswith("face_")}
    (caption,) = Caption(CaptionSettings(backend="template"))(
        batch(row(1, num_faces=faces, **measures))
    )["rejected_by"]
    assert caption == ""


@pytest.mark.parametrize(
    ("text", "redacted", "hits"),
    [
        ("A photo of Tom Hanks smiling.", "A photo of a person smiling.", 1),
        ("Emma smiles, and Tom Hanks's suit is grey.", "A person smiles, and a person's suit is "
         "grey.", 2),
        ("President Barack Obama waves.", "A person waves.", 1),
        ("The Tom Hanks portrait hangs there.", "A person portrait hangs there.", 1),
        ("A woman named Maria Lopez, in red.", "A woman, in red.", 1),
        ("Tom Hanks and Emma Stone laugh.", "People laugh.", 2),
        ("Grace and light. A rose in May. Will a woman come?", None, 0),
        (GOOD, None, 0),
        ("A woman in Paris, in front of the Eiffel Tower.", None, 0),
    ],
)  # fmt: skip
def test_names_of_people_are_taken_out_and_other_words_stay(text, redacted, hits):
    assert redact(text) == (redacted or text, hits)


def test_the_label_of_a_picture_is_a_name_too():
    assert redact("a portrait of ann veneman, 2003", ["Ann_Veneman"]) == (
        "a portrait of a person, 2003",
        1,
    )


def test_names_are_taken_out_of_what_the_stage_writes_unless_they_are_wanted():
    rows = batch(row(1, caption="Emma Stone laughs at the camera in a red dress"))
    told = Caption(CaptionSettings(backend="alt"))(rows)
    assert told["caption_merged"] == ["A person laughs at the camera in a red dress"]
    assert told["caption_redacted"] == [1]
    kept = Caption(CaptionSettings(backend="alt", redact_names=False))(rows)
    assert kept["caption_merged"] == ["Emma Stone laughs at the camera in a red dress"]


@pytest.mark.parametrize(
    ("caption", "fault"),
    [
        (GOOD, ""),
        ("I'm sorry, but I can't help with identifying people in pictures.", "caption_refused"),
        ("As an AI language model, I see a man and a woman.", "caption_refused"),
        ("No image was provided, so there is no man to see.", "caption_refused"),
        ("A woman.", "caption_short"),
        ("A man sits. A man sits. A man sits on a chair.", "caption_repeats"),
        ("a man in a hat in a hat in a hat in a hat and so on", "caption_repeats"),
        ("A man and " + " ".join(f"word{n}" for n in range(130)), "caption_long"),
        ("A red barn stands in a wide green field.", "caption_no_person"),
        ("", "caption_short"),
    ],
)
def test_a_caption_that_is_no_good_is_named(caption, fault):
    assert first_fault(caption, CaptionSettings(backend="alt")) == fault
    assert not fault or fault in REJECTIONS


@pytest.mark.parametrize(
    "caption",
    ["A woman who can't help but laugh.", "He is unable to stand still.", GOOD,
     "A sign says: I am sorry for your loss."[:14]],
)  # fmt: skip
def test_words_of_the_picture_are_no_refusal(caption):
    assert not refuses(caption)


def test_a_long_true_caption_is_no_repetition():
    assert not repeats(
        "A woman in a red coat and a man in a blue coat stand in front of a house. The woman holds "
        "a cup, the man holds a newspaper, and both of them look at the camera in soft light."
    )


@pytest.mark.parametrize("name", ["picture", "parts", "attributes", "action", "merge"])
def test_a_prompt_is_known_by_the_hash_of_its_file_and_names_every_field(name):
    file = files("stages").joinpath("captions", "prompts", f"{name}.yaml")
    assert prompt(name).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert prompt(name).tag == f"{name}@{prompt(name).sha256[:12]}"
    fields = yaml.safe_load(file.read_text())["fields"]
    assert list(prompt(name).schema["required"]) == list(fields)
    assert all(f'"{field}"' in prompt(name).user for field in fields)


def test_what_a_model_thinks_before_its_answer_is_passed_over():
    told = prompt("merge").read('<think>{"merged": "no"}</think> {"merged": " A man. "}')
    assert told == {"merged": "A man."}


def test_a_number_where_a_text_belongs_is_told_by_its_place():
    with pytest.raises(BadAnswer, match=r"merged: Input should be a valid string"):
        prompt("merge").read('{"merged": 7}')


def test_the_errors_of_captions_have_names():
    assert {"caption_schema", "caption_endpoint"} <= set(ERRORS)
