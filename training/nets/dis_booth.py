"""What a picture shows beside its person: DisenBooth's image adapter.

Shapes: B samples, I numbers of the image encoder's vector, E width of text.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RestAdapter(nn.Module):
    """Keep of a picture's vector what is not the person, as one token that is added to all text.

    f = g + MLP(g), g = sigmoid(m) * e: a mask decides, number by number, what of the picture
    counts. Where the text is of another width than the picture's vector, as on Stable Diffusion
    1.5, one matrix more leads there; the original's are both 1024 wide.

    References:
        Chen et al., "DisenBooth", arXiv:2305.03374, section 3.2; ``disen_net.py`` of its code.
    """

    def __init__(self, image_dim: int, text_width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mask = nn.Parameter(torch.zeros(image_dim))
            self.mlp = nn.Sequential(
                nn.Linear(image_dim, image_dim), nn.ReLU(), nn.Linear(image_dim, image_dim)
            )
            same = image_dim == text_width
            self.out = nn.Identity() if same else nn.Linear(image_dim, text_width, bias=False)

    def forward(self, vectors: Float[Tensor, "B I"]) -> Float[Tensor, "B 1 E"]:
        """Return one token per picture."""
        counts = self.mask.sigmoid() * vectors
        token: Tensor = self.out(counts + self.mlp(counts))
        return token[:, None]
