"""The toy face recognition: trained to tell apart people of whom a caption would say the same."""

from itertools import product

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn.functional import cross_entropy

from ....core.toyworld.identity_encoder import IdentityEncoder, face_crops
from ...step_random import StepRandom
from .augmentation import augment, jitter
from .face_views import CAPTIONS, Gallery, Order, gallery
from .starting_weights import start_from_weights
from .train_network import Settings, train

FACES = 160
"""Per caption; there are 25 captions."""
CAPTIONS_PER_BATCH = 2
TEMPERATURE = 0.1


def train_identity_encoder(settings: Settings) -> tuple[IdentityEncoder, list[float]]:
    """Train with the loss of SimCLR (NT-Xent; Chen et al. 2020, arXiv:2002.05709, equation 1).

    Where SimCLR has two crops of a photograph, here are two views of a face: a close-up or a figure, elsewhere, in
    another pose, augmented, half of the time in other clothes. A batch holds faces of two captions only, so that almost
    every negative has the same class word and hair colour, as the people have among whom Face-Sim must tell. Only looks
    of the training split are shown.
    """
    torch.manual_seed(settings.seed)
    network = IdentityEncoder()
    start_from_weights(network, "identity_encoder", settings)
    network.to(settings.device)
    order = Order(FACES, 2, 4, settings.seed + 2, other_clothes=True)
    views = gallery(order, settings.folder)
    per_caption = settings.batch // (2 * CAPTIONS_PER_BATCH)

    def loss(random: StepRandom) -> Tensor:
        crops = _pairs(views, per_caption, random).to(settings.device)
        with settings.autocast():
            vectors = network(crops)
        return nt_xent(vectors)

    history = train("identity_encoder", network, loss, settings)
    return network.eval(), history


def nt_xent(vectors: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Cross entropy of finding a view's other view among all. Rows `i` and `i + n / 2` of `(n, d)` show one face."""
    count = len(vectors)
    alike = vectors @ vectors.T / temperature
    alike = alike.masked_fill(torch.eye(count, dtype=torch.bool, device=vectors.device), -torch.inf)
    return cross_entropy(alike, torch.arange(count, device=vectors.device).roll(count // 2))


def _pairs(views: Gallery, per_caption: int, random: StepRandom) -> Tensor:
    """Two views of faces that share captions: crops `(2 * captions * per_caption, 3, side, side)`, view by view."""
    captions, faces, kinds = views.picture_of.shape
    chosen: list[tuple[int, int, np.ndarray]] = []
    for caption in random.numpy.choice(captions, CAPTIONS_PER_BATCH, replace=False):
        for face in random.numpy.choice(faces, per_caption, replace=False):
            chosen.append((caption, face, random.numpy.choice(kinds, 2, replace=False)))
    crops = [_crop(views, caption, face, pair[i], random) for i in (0, 1) for caption, face, pair in chosen]
    return augment(torch.cat(crops), random)


def _crop(views: Gallery, caption: int, face: int, view: int, random: StepRandom | None = None) -> Tensor:
    box = torch.from_numpy(views.boxes[caption, face, view])[None]
    picture = torch.from_numpy(np.array(views.pictures[views.picture_of[caption, face, view]])).float() / 255
    return face_crops(picture, box if random is None else jitter(box, random), views.pictures.shape[1] // 2)


@torch.no_grad()
def measure_identity_encoder(network: IdentityEncoder, faces: int = 12, seed: int = 1_000_003) -> dict[str, float]:
    """Verification on looks never shown in training, among people who share a caption.

    Args:
        network: Trained.
        faces: Per caption, two close-ups and two full figures of each, all in the same clothes.
        seed: The seed of the people and the scenes.

    Returns:
        For pairs of close-ups, of full figures, and mixed ones: the area under the ROC curve, the equal error rate, and
        the mean cosine of the same and of different faces.
    """
    views = gallery(Order(faces, 2, 2, seed, held_out=True))
    crops = [_crop(views, *place) for place in product(range(len(CAPTIONS)), range(faces), range(4))]
    device = next(network.parameters()).device
    vectors = network(torch.cat(crops).to(device)).cpu().reshape(len(CAPTIONS), faces * 4, -1)
    cosines = (vectors @ vectors.mT).numpy()
    face, close = np.divmod(np.arange(faces * 4), 4)
    close = close < views.close_ups
    above = np.triu(np.ones((faces * 4, faces * 4), bool), 1)
    measured = {}
    kinds = {"close_ups": close[:, None] & close, "full": ~close[:, None] & ~close, "mixed": close[:, None] ^ close}
    for kind, pairs in kinds.items():
        alike = face[:, None] == face
        same, different = cosines[:, pairs & above & alike], cosines[:, pairs & above & ~alike]
        auc, error = verification(same.ravel(), different.ravel())
        measured |= {f"auc_{kind}": auc, f"eer_{kind}": error}
        measured |= {f"cosine_same_{kind}": float(same.mean()), f"cosine_different_{kind}": float(different.mean())}
    return measured


def verification(same: np.ndarray, different: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve (the share of pairs of pairs in the right order, ties half) and the equal error rate."""
    ranks = rankdata(np.concatenate([same, different]))
    auc = (ranks[: len(same)].sum() - len(same) * (len(same) + 1) / 2) / (len(same) * len(different))
    thresholds = np.sort(np.concatenate([same, different]))
    missed = np.searchsorted(np.sort(same), thresholds) / len(same)
    taken = 1 - np.searchsorted(np.sort(different), thresholds) / len(different)
    crossing = int(np.abs(missed - taken).argmin())
    return float(auc), float((missed[crossing] + taken[crossing]) / 2)
