"""Small groups of pictures of noise, settings for them, and a trainee that is one line."""

import torch
from safetensors.torch import save_file
from story_identity.core.character_mentions import find_word
from story_identity.lab.training.groups import Group
from story_identity.lab.training.settings import TrainingSettings
from story_identity.lab.training.train_synchronizer import SynchronizerSettings

SIDE = 16
PEOPLE = (("Mira", "woman"), ("Tom", "boy"))


def group(seed=0, count=4, people=1):
    """Noise in which people stand side by side, a little further down in every picture."""
    random = torch.Generator().manual_seed(seed)
    words = [word for _, word in PEOPLE[:people]]
    captions = tuple(f"a red {' and a '.join(words)} on beach {number}" for number in range(count))
    masks = torch.zeros(count, people, SIDE, SIDE, dtype=torch.bool)
    for number in range(count):
        for person in range(people):
            masks[number, person, number : number + 10, 8 * person + 1 : 8 * person + 7] = True
    return Group(
        names=tuple(name for name, _ in PEOPLE[:people]),
        pictures=torch.rand(count, SIDE, SIDE, 3, generator=random),
        captions=captions,
        words=tuple(tuple(tuple(find_word(word, caption)) for caption in captions) for word in words),
        masks=masks,
    )


class Source:
    """Groups of one and of two people in turn, numbered over all processes."""

    def __init__(self, count=4):
        self.count = count

    def stream(self, first, process, processes):
        while True:
            number = first * processes + process
            yield group(number, self.count, 1 + number % 2)
            first += 1


def _quiet(**changes):
    small = {"checkpoint": "toyworld", "data": "toyworld", "out": "nowhere", "width": SIDE, "height": SIDE}
    return {**small, "steps": 4, "warm_up": 0, "tracker": "", "device": "cpu", **changes}


def settings(**changes):
    return TrainingSettings(**_quiet(**changes))


def synchronizer_settings(**changes):
    chosen = {"frames": 2, "groups": 2, "rank": 2, "mask_loss": 0.5, "plain": 0.0, "text_dropout": 0.0, **changes}
    return SynchronizerSettings(**_quiet(**chosen))


class Line(torch.nn.Module):
    """Learns a slope and a height for the mean brightness of pictures, each blurred at random."""

    def __init__(self, blur=0.0):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
        self.height = torch.nn.Parameter(torch.tensor(0.5))
        self.frozen = torch.nn.Parameter(torch.tensor(3.0), requires_grad=False)
        self.blur, self.seen = blur, []

    def forward(self, groups, random):
        self.seen += [float(each.pictures.double().sum()) for each in groups]
        light = torch.stack([each.pictures.mean(dim=(1, 2)).mean(dim=0)[:2] for each in groups])
        guess = (light + self.blur * random.normal(*light.shape)) @ self.slope + self.height
        return {"loss": (guess - self.frozen).square().mean()}

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "line.safetensors"
        save_file({"slope": self.slope.detach(), "height": self.height.detach().view(1)}, path)
        return path
