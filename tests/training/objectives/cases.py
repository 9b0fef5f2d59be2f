"""Steps and tools small enough to compute a loss by hand."""

import torch

from tests.training.methods.adapters import FEATURES
from training.loss_settings import LossSettings
from training.noise import Noised, NoiseSchedule
from training.objective import LOSSES
from training.objectives.step import Gives, Step, Tools
from training.settings import BaseModelSettings


class Mirror:
    """A codec whose pictures are the first channels of its latents."""

    def encode(self, pictures):
        return pictures

    def decode(self, latents):
        return latents[:, :3]


class People:
    """Who a picture shows is 4 times its first two values; distances are squared, 1 is another."""

    same_person_at = 1.0

    def vectors(self, pictures, _):
        return 4 * pictures.flatten(1)[:, :2]

    def apart(self, one, other):
        return (one - other).square().sum(dim=-1)


def tools(gives=None, **weights):
    """Tools around the hand-made networks."""
    settings = LossSettings(**weights)
    schedule = NoiseSchedule(BaseModelSettings())
    made = Tools(settings, schedule, Mirror(), FEATURES, gives or Gives(), People())
    for name, term in LOSSES.items():
        if getattr(settings, name) > 0 and term.network is not None:
            torch.manual_seed(0)
            made.networks[name] = term.network(made)
    return made


def step(pred, *, t=None, snr=None, asked=None, batch=None, z_t=None, **shown):
    """A step whose schedule does nothing: ``Bare`` has the clean estimate in the prediction."""
    count = len(pred)
    noised = Noised(
        torch.zeros_like(pred) if z_t is None else z_t,
        torch.zeros(count, dtype=torch.int64) if t is None else torch.tensor(t),
        torch.zeros_like(pred),
        torch.full((count,), 1e9) if snr is None else torch.tensor(snr),
    )
    asked = torch.ones(count, dtype=torch.bool) if asked is None else torch.tensor(asked)
    given = {
        "landmarks": torch.zeros(count, 5, 2),
        "mask": torch.ones(count, *pred.shape[2:]),
    } | (batch or {})
    return Step(pred, noised, given, asked, torch.ones(count), **shown)


class Bare(Tools):
    """Tools to which the prediction is the clean estimate."""

    def clean(self, z_t, t, pred):  # noqa: ARG002
        return pred


def bare(gives=None, **weights):
    """The same as ``tools``, with predictions that are clean estimates."""
    made = tools(gives, **weights)
    return Bare(**{name: getattr(made, name) for name in made.__dataclass_fields__})


def showing(*people, channels=3):
    """A prediction whose clean estimates show these people, each two numbers in 0 to 4."""
    pred = torch.zeros(len(people), channels, 2, 2)
    pred[:, 0, 0] = torch.tensor(people) / 4
    return pred.requires_grad_()


def of_any_picture():
    """Name the losses that ask for no class, no pairs and no videos."""
    return sorted(set(LOSSES) - {"prior", "dpo", "ipo", "motion", "video_identity"})
