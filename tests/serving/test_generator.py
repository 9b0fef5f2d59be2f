from dataclasses import replace

import numpy as np
import pytest
import torch

from infra.errors import BadValue, BadWeights
from serving.generator import Generator, Order
from serving.recipes import ImageSettings, ServeRecipe
from serving.types import Draw, Edit, Reference
from serving.weights import Shelf
from tests.serving.conftest import DIM, EMBEDDER, tiny_base, tiny_export, tiny_subject
from training.method import Stopped

SETTINGS = ImageSettings(threads=1)


def someone(seed=0):
    """A reference vector of nobody in particular."""
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return Reference(vector=vector, embedder=EMBEDDER)


def ask(**changes):
    plain = Draw(
        request_id="r", prompt="a face", width_px=32, height_px=32, seed=3, steps=4, guidance=3.0,
        reference=someone(),
    )  # fmt: skip
    return replace(plain, **changes)


class Studio:
    """A generator and the models that it knows."""

    def __init__(self, *folders, settings=SETTINGS):
        names = tuple(f"file:{folder}" for folder in folders)
        self.shelf = Shelf(ServeRecipe(name="test", model=names[0], adapters=names[1:]))
        self.names = names
        self.generator = Generator(settings, self.shelf.resolve(""))

    def load(self, number=0):
        return self.generator.load(self.shelf.resolve(self.names[number]))

    def draw(self, *asks, number=0, gone=lambda: False):
        loaded = self.load(number)
        return self.generator.draw([Order(ask=ask, loaded=loaded) for ask in asks], gone)

    def one(self, asked, number=0):
        return self.draw(asked, number=number)[0][0]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    home = tmp_path_factory.mktemp("exports")
    return [tiny_export(home / "one"), tiny_export(home / "two", seed=1)]


@pytest.fixture(scope="module")
def studio(exports, tmp_path_factory):
    return Studio(*exports, tiny_base(tmp_path_factory.mktemp("base")))


def test_a_picture_alone_is_the_same_as_in_company(studio):
    asks = [ask(), ask(seed=8, reference=someone(1), pictures=2), ask(prompt="", seed=4)]
    together = [picture for order in studio.draw(*asks) for picture in order]
    alone = [picture for each in asks for picture in studio.draw(each)[0]]
    assert len(together) == 4
    for here, there in zip(together, alone, strict=True):
        assert np.abs(here.astype(int) - there).max() <= 1


def test_the_seed_the_person_and_the_words_all_count(studio):
    plain = studio.one(ask())
    assert np.array_equal(plain, studio.one(ask()))
    for other in (
        ask(seed=4), ask(reference=someone(1)), ask(prompt="a hat"), ask(negative_prompt="x"),
        ask(start_step=2), ask(identity_scale=0.4), ask(guidance=1.0),
    ):  # fmt: skip
        assert not np.array_equal(plain, studio.one(other)), other


def test_the_second_picture_can_be_drawn_again_by_its_own_seed(studio):
    _, second = studio.draw(ask(seed=10, pictures=2))[0]
    assert np.abs(second.astype(int) - studio.one(ask(seed=11))).max() <= 1


def test_switching_models_changes_pictures_and_switching_back_restores_them_exactly(studio):
    first, other = studio.one(ask()), studio.one(ask(), number=1)
    assert not np.array_equal(first, other)
    assert np.array_equal(first, studio.one(ask()))
    assert np.array_equal(other, studio.one(ask(), number=1))


def test_models_of_one_kind_share_a_network_and_copy_nothing(studio):
    one, two, base = (studio.load(number) for number in range(3))
    assert one.network is two.network
    assert base.network is not one.network
    studio.draw(ask(), number=1)
    mounted = two.network._method.trainable()
    assert all(
        weight.data_ptr() == two.weights[name].data_ptr() for name, weight in mounted.items()
    )


def test_without_a_reference_every_adapter_draws_what_the_base_draws(studio):
    nobody = ask(reference=None)
    plain = studio.one(nobody)
    assert np.array_equal(plain, studio.one(nobody, number=1))
    assert np.array_equal(plain, studio.one(ask(identity_scale=0.0)))
    assert not np.array_equal(plain, studio.one(ask()))


def test_a_generator_from_scratch_draws_people_and_nobody(studio):
    asked = ask(prompt="")
    one, other = studio.one(asked, 2), studio.one(replace(asked, reference=someone(1)), 2)
    nobody = studio.one(replace(asked, reference=None), 2)
    assert one.shape == (32, 32, 3)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, nobody)


@pytest.mark.parametrize(("kind", "word"), [("lora", "sks person"), ("sefi_ide", "<person>")])
def test_who_was_learnt_alone_is_drawn_by_their_word_and_without_any(tmp_path, kind, word):
    studio = Studio(tiny_subject(tmp_path, kind, word))
    info = studio.generator.info(studio.load())
    assert not info.takes_identity
    of_word, usual, other = (
        studio.one(ask(prompt=prompt, reference=None))
        for prompt in (f"a photo of a {word}", "", "a photo of a house")
    )
    assert np.array_equal(of_word, usual)
    assert not np.array_equal(of_word, other)


def test_an_adapter_draws_other_sizes(studio):
    assert studio.one(ask(width_px=48, height_px=40)).shape == (40, 48, 3)


def test_an_edit_keeps_every_pixel_outside_its_mask(studio):
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:24, 8:24] = True
    drawn = studio.one(ask(edit=Edit(picture=picture, mask=mask)))
    assert np.array_equal(drawn[~mask], picture[~mask])
    assert not np.array_equal(drawn[mask], picture[mask])


def test_a_weak_edit_stays_nearer_to_its_picture_than_a_strong_one(studio):
    rows, columns = np.mgrid[0:32, 0:32]
    picture = np.stack([8 * rows, 8 * columns, 255 - 8 * rows], axis=2).astype(np.uint8)
    weak, strong = (
        studio.one(ask(prompt="", steps=10, edit=Edit(picture=picture, strength=s)), 2)
        for s in (0.1, 1.0)
    )
    far = [np.abs(drawn.astype(int) - picture).mean() for drawn in (weak, strong)]
    assert far[0] < far[1]


def test_drawing_ends_at_the_step_at_which_everybody_has_left(studio):
    asked = []
    with pytest.raises(Stopped, match="after step 2"):
        studio.draw(ask(steps=50), gone=lambda: asked.append(None) or len(asked) == 3)


def test_previews_are_sent_to_the_one_who_asked_while_drawing(studio):
    loaded, seen = studio.load(), []
    orders = [
        Order(ask=ask(), loaded=loaded),
        Order(ask=ask(seed=9, previews=3, steps=8), loaded=loaded, preview=seen.append),
    ]
    orders[0] = replace(orders[0], ask=ask(steps=8))
    last = studio.generator.draw(orders)[1][0]
    assert [preview.index for preview in seen] == [0, 1, 2]
    far = [np.abs(preview.picture.astype(int) - last).mean() for preview in seen]
    assert far == sorted(far, reverse=True)
    assert far[0] > 0


def test_the_least_recently_used_weights_go_first(exports):
    studio = Studio(*exports, settings=replace(SETTINGS, adapters_held=1))
    first, network = studio.one(ask()), studio.load().network
    studio.one(ask(), number=1)
    assert studio.generator.held(studio.shelf.resolve(studio.names[0])) is None
    assert studio.generator.held(studio.shelf.resolve(studio.names[1])) is not None
    assert studio.load().network is network
    assert np.array_equal(first, studio.one(ask()))


def test_a_file_that_was_altered_is_refused(exports, tmp_path):
    folder = tiny_export(tmp_path / "altered", seed=2)
    studio = Studio(exports[0], folder)
    studio.shelf.resolve(studio.names[1])
    weights = folder / "ip-adapter-faceid.safetensors"
    held = bytearray(weights.read_bytes())
    held[-1] ^= 1
    weights.write_bytes(held)
    with pytest.raises(BadWeights, match="SHA-256 differs"):
        studio.load(1)


def test_the_device_proves_itself(studio):
    assert studio.generator.answers(5.0)


def test_a_device_that_hangs_is_not_taken_for_healthy(studio):
    studio.generator._probing.acquire()  # as a probe that never came back
    try:
        assert not studio.generator.answers(0.05)
    finally:
        studio.generator._probing.release()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_at_once(exports):
    with pytest.raises(BadValue, match="no GPU"):
        Studio(exports[0], settings=replace(SETTINGS, device="cuda"))
