"""Where people's names are among a text encoder's embeddings, and how to get there.

Shapes: B samples, D identity, K tokens, E their width, N names.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

GIVEN = (
    "james", "mary", "robert", "jennifer", "john", "linda", "michael", "elizabeth", "david",
    "barbara", "william", "susan", "richard", "jessica", "joseph", "sarah", "thomas", "karen",
    "daniel", "nancy", "matthew", "lisa", "anthony", "betty", "mark", "sandra", "steven", "ashley",
    "paul", "emily", "andrew", "donna", "kevin", "michelle", "brian", "carol", "george", "amanda",
    "edward", "melissa", "ryan", "laura", "jacob", "anna", "gary", "emma", "eric", "nicole",
    "carlos", "maria", "ahmed", "aisha", "ali", "fatima", "raj", "priya", "wei", "mei", "kenji",
    "yuki", "ivan", "olga", "kofi", "ama",
)  # fmt: skip
FAMILY = (
    "smith", "johnson", "williams", "brown", "jones", "garcia", "miller", "davis", "rodriguez",
    "martinez", "hernandez", "lopez", "gonzalez", "wilson", "anderson", "thomas", "taylor", "moore",
    "jackson", "martin", "lee", "perez", "thompson", "white", "harris", "sanchez", "clark",
    "ramirez", "lewis", "robinson", "walker", "young", "allen", "king", "wright", "scott", "torres",
    "nguyen", "hill", "flores", "green", "adams", "nelson", "baker", "hall", "rivera", "campbell",
    "mitchell", "carter", "roberts", "khan", "singh", "patel", "kumar", "wang", "chen", "kim",
    "park", "tanaka", "sato", "ivanov", "silva", "santos", "mensah",
)  # fmt: skip
"""Names that CLIP's vocabulary knows, nearly all as one token each."""


class NameTokens(nn.Module):
    """Turn an identity vector into tokens that stand where names stand.

    v = MLP(e); token_k = std_k * (v_k - mean(v_k)) / std(v_k) + mean_k

    The mean and deviation of v_k are over its numbers; mean_k and std_k are, number by number,
    those of people's names at place k: given names, then family names. So a token is as far from
    its like as names are from one another, and a prompt can do with it what it does with a name.

    References:
        Wang et al., "StableIdentity: Inserting Anybody into Anywhere at First Sight",
        arXiv:2401.15975, section 3.2. It takes 691 names of celebrities; ours are the commonest
        names of many countries, and nobody's in particular. The MLP's width is the tokens'.
    """

    mean: Float[Tensor, "K E"]
    std: Float[Tensor, "K E"]

    def __init__(self, identity_dim: int, names: list[Float[Tensor, "N E"]], seed: int) -> None:
        """Take what names are embedded as, for each token."""
        super().__init__()
        self.shape = len(names), names[0].shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mlp = nn.Sequential(
                nn.Linear(identity_dim, self.shape[1]),
                nn.LeakyReLU(),
                nn.Linear(self.shape[1], self.shape[0] * self.shape[1]),
            )
        mean = torch.stack([each.mean(dim=0) for each in names])
        std = torch.stack([each.std(dim=0) for each in names])
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, identity: Float[Tensor, "B D"]) -> Float[Tensor, "B K E"]:
        """Return the tokens of each vector, which is normalised already."""
        v_BKE = self.mlp(identity).unflatten(1, self.shape).float()
        centred = v_BKE - v_BKE.mean(dim=2, keepdim=True)
        unit = centred / v_BKE.std(dim=2, keepdim=True).clamp(min=1e-6)
        tokens: Tensor = self.std * unit + self.mean
        return tokens
