"""Reference Conditioning: what it gives editing models, and what references change through Cast and both passes."""

import logging
from contextlib import contextmanager

import setting
import torch
from comfy_extras.nodes_edit_model import ReferenceLatent
from comfy_extras.nodes_flux import FluxKontextMultiReferenceLatentMethod
from families import FAMILIES, random
from setting import refused
from story_identity.core.frame_text import frame_as_text, frame_from_text
from story_identity.core.identity import Identity
from story_identity.core.layout import Layout
from story_identity.core.redenoise import to_latent_grid
from story_identity.core.story import Story
from story_identity.nodes.host.references import warn_if_ignored
from story_identity.nodes.reference_conditioning import WITH_PICTURES, ReferenceConditioningNode
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode, RedenoiseNode
from story_identity.nodes.types import CastMember

import nodes
from tests.closeness import largest_difference

EDITORS = ("Flux.1", "Flux.2 klein", "OmniGen2", "Qwen-Image-Edit", "Krea 2")
"""Families that read references; the last one where a method is set."""
STEPS, SIDE = 5, 128


def story(*frames):
    people = [
        {"name": "Mira", "word": "woman", "description": "a young woman with short red hair"},
        {"name": "Ben", "word": "man", "description": "an old man in a raincoat"},
    ]
    return Story.parse({"characters": people, "frames": list(frames)})


def identity(name="Mira", seed=1, count=3, height=32, width=32):
    levels = torch.randint(0, 256, (count, height, width, 3), generator=torch.Generator().manual_seed(seed))
    return Identity(name, "", "clip", torch.ones(4), {}, levels.byte())


class Encoder:
    """A stand-in for a family's text encoder, which remembers what it was given."""

    def __init__(self, family):
        self.family, self.seen = family, []

    def tokenize(self, text, **more):
        self.seen.append((text, more))
        return text

    def encode_from_tokens_scheduled(self, text):
        return self.family.conditioning(sum(map(ord, text)))


class Autoencoder:
    """A stand-in for a family's VAE: latents of its channels and size, which depend on the picture."""

    def __init__(self, family, model):
        self.family, self.channels, self.seen = family, model.get_model_object("latent_format").latent_channels, []

    def spacial_compression_encode(self):
        return self.family.ratio

    def encode(self, pixels):
        self.seen.append(tuple(pixels.shape))
        _, height, width, _ = pixels.shape
        grid = (height // self.family.ratio, width // self.family.ratio)
        moments = (1,) if self.family.moments else ()
        return random(int(1000 * pixels.double().sum()) % 2**31, 1, self.channels, *moments, *grid)


class Studio:
    """A family's two models, and a story of one frame with two people in it."""

    def __init__(self, name):
        self.family = FAMILIES[name]
        self.generator = self.family.make(2)
        self.clip, self.vae = Encoder(self.family), Autoencoder(self.family, self.generator)
        (self.frame,) = story("Mira meets Ben in the rain").frames
        self.negative = self.family.conditioning(2)
        latent, self.cache = NoisyLatentCacheNode.execute(
            self.family.make(1), self.family.conditioning(1), self.negative, self.family.latent(), 3, STEPS, 1.0,
            "euler", "simple", 1.0, 0, "float32",
        ).result  # fmt: skip
        self.template = latent["samples"]
        masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
        masks[0, 32:96, 16:56], masks[1, 32:96, 72:112] = True, True
        self.layout = Layout(("Mira", "Ben"), masks, self.frame.label)
        self.mira, self.ben = to_latent_grid(masks, *self.template.shape[-2:])[:, 0]

    def plain(self, name):
        """What Reference Conditioning gives without the references."""
        return [[tensor, {k: v for k, v in extras.items() if k != "reference_latents"}] for tensor, extras in
            self.references(name, 1)]  # fmt: skip

    def references(self, name, seed, **more):
        method = {"reference_method": "index"} if self.family.name == "Krea 2" else {}
        settings = {"megapixels": 0.004, "frame": self.frame, **method, **more}
        return ReferenceConditioningNode.execute(self.clip, self.vae, identity(name, seed), **settings).result[0]

    def draw(self, mira, ben, start=2):
        (cast,) = CastNode.execute(identity("Mira"), mira, self.negative).result
        (cast,) = CastNode.execute(positive=ben, negative=self.negative, cast=cast, name="Ben", frame=self.frame).result
        return RedenoiseNode.execute(self.generator, cast, self.cache, self.layout, start, 0, 1.0, "hard").result[0][
            "samples"
        ]


def check_references_change_the_characters_and_nothing_else():
    for name in EDITORS:
        studio = Studio(name)
        without = studio.draw(studio.plain("Mira"), studio.plain("Ben"))
        first = studio.draw(studio.references("Mira", 1), studio.references("Ben", 2))
        other = studio.draw(studio.references("Mira", 1), studio.references("Ben", 3, portraits=2))
        again = studio.draw(studio.references("Mira", 1), studio.references("Ben", 2))
        assert torch.equal(first, again), name
        background = ~(studio.mira | studio.ben)
        for drawn in (without, first, other):
            assert torch.equal(drawn[..., background], studio.template[..., background]), name
        for cells in (studio.mira, studio.ben):
            assert largest_difference(first[..., cells], without[..., cells]) > 1e-3, name
        assert largest_difference(first[..., studio.ben], other[..., studio.ben]) > 1e-3, name


def check_one_characters_references_are_not_the_others():
    """At the last step nothing of Ben has reached Mira through the picture, so that exchanging his leaves her."""
    for name in EDITORS:
        studio = Studio(name)
        first, other = (
            studio.draw(studio.references("Mira", 1), studio.references("Ben", seed), start=STEPS - 1)
            for seed in (2, 3)
        )
        assert torch.equal(first[..., studio.mira], other[..., studio.mira]), name
        assert not torch.equal(first[..., studio.ben], other[..., studio.ben]), name


def check_the_conditioning_is_that_of_the_stock_nodes():
    _, clip, vae = setting.stand_in_sdxl()
    (frame,) = story("Mira waits").frames
    who = identity(height=48, width=32)
    (ours,) = ReferenceConditioningNode.execute(
        clip, vae, who, frame=frame, portraits=2, megapixels=48 * 32 / 1024**2, reference_method="uxo"
    ).result
    said = "a young woman with short red hair, the woman in images 1 and 2, waits"
    (stock,) = nodes.CLIPTextEncode().encode(clip, said)
    for picture in who.portrait_images(2).split(1):
        (stock,) = ReferenceLatent.execute(stock, {"samples": vae.encode(picture)}).result
    (stock,) = FluxKontextMultiReferenceLatentMethod.execute(stock, "uxo/uno").result
    for (tensor, extras), (expected, wanted) in zip(ours, stock, strict=True):
        assert torch.equal(tensor, expected)
        assert extras.keys() == wanted.keys()
        assert extras["reference_latents_method"] == wanted["reference_latents_method"]
        for latent, other in zip(extras["reference_latents"], wanted["reference_latents"], strict=True):
            assert torch.equal(latent, other)


def check_references_are_scaled_to_a_number_of_pixels_and_keep_their_shape():
    family = FAMILIES["Flux.1"]
    model = family.make()
    for ratio, megapixels, (height, width) in ((8, 1.0, (300, 200)), (32, 0.25, (64, 640)), (8, 0.01, (1000, 10))):
        vae = Autoencoder(family, model)
        vae.spacial_compression_encode = lambda ratio=ratio: ratio
        pictures = torch.rand(2, height, width, 3)
        ReferenceConditioningNode.execute(
            Encoder(family), vae, images=pictures, text="a cat", class_word="cat", portraits=2, megapixels=megapixels
        )
        assert len(vae.seen) == 2
        _, rows, columns, channels = vae.seen[0]
        step = max(16, ratio)
        assert channels == 3
        assert rows % step == columns % step == 0
        scale = (megapixels * 1024**2 / (height * width)) ** 0.5
        for side, wanted in ((rows, scale * height), (columns, scale * width)):
            assert abs(side - wanted) <= step / 2 or side == step


def check_the_text_encoder_sees_the_pictures_if_it_is_to():
    family = FAMILIES["Qwen-Image-Edit"]
    clip, vae = Encoder(family), Autoencoder(family, family.make())
    (frame,) = story("Ben waits").frames
    given = {"frame": frame, "text_encoder": WITH_PICTURES, "prompt": "character"}
    (found,) = ReferenceConditioningNode.execute(clip, vae, identity("Ben", count=4), portraits=3, **given).result
    ((text, more),) = clip.seen
    assert text.count("<|image_pad|>") == len(more["images"]) == len(found[0][1]["reference_latents"]) == 3
    assert text.endswith("an old man in a raincoat, the man in pictures 1 to 3")
    refused(
        lambda: ReferenceConditioningNode.execute(clip, vae, identity("Ben", count=4), portraits=4, **given),
        "4 pictures", "at most 3",
    )  # fmt: skip


def check_absent_characters_get_an_empty_conditioning_and_nothing_is_encoded():
    studio_clip = Encoder(FAMILIES["Flux.1"])
    (frame,) = story("Ben waits").frames
    assert ReferenceConditioningNode.execute(studio_clip, object(), identity(), frame=frame).result[0] == []
    assert not studio_clip.seen


def check_a_frame_that_travels_by_itself_needs_the_name():
    """It does not know who else is in the story."""
    studio = Studio(EDITORS[0])
    alone = frame_from_text(frame_as_text(studio.frame))
    pictures = torch.rand(1, 32, 32, 3)
    refused(
        lambda: ReferenceConditioningNode.execute(studio.clip, studio.vae, images=pictures, frame=alone),
        "between Each Frame and Collect Frames",
        "name",
    )
    (named,) = ReferenceConditioningNode.execute(
        studio.clip, studio.vae, images=pictures, frame=alone, name="Mira"
    ).result
    assert named


def check_what_is_missing_is_named_before_anything_is_encoded():
    clip, vae = Encoder(FAMILIES["Flux.1"]), object()
    (frame,) = story("Mira waits").frames
    without = Identity("Mira", "", "clip", torch.ones(4))

    def asked(*words, **more):
        refused(lambda: ReferenceConditioningNode.execute(clip, vae, **{"frame": frame, **more}), *words)

    asked("no reference", "Connect an identity or images")
    asked('"Mira" carries no portraits', identity=without)
    asked('"Mira" carries 3 portraits; 5', identity=identity(), portraits=5)
    asked("portraits is 2, but images has 1", images=torch.rand(1, 8, 8, 3), portraits=2, name="Mira")
    asked('"Bob"', '"Mira", "Ben"', images=torch.rand(1, 8, 8, 3), name="Bob")
    asked('"Ben"', '"Mira"', identity=identity(), name="Ben")
    asked('class word "cat"', identity=identity(), frame=None, text="a dog", class_word="cat")
    refused(lambda: ReferenceConditioningNode.execute(None, vae, identity()), "the CLIP is None")
    assert not clip.seen


@contextmanager
def logged():
    """The warnings that are logged while the context is open."""
    said = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(handler)


def check_models_that_ignore_references_are_named_once():
    def member(family, model=None, **extras):
        ((tensor, more),) = family.conditioning(1)
        return CastMember("Mira", [[tensor, {**more, **extras}]], [], model)

    latents = {"reference_latents": [torch.zeros(1, 16, 2, 2)]}
    for name, words in (("Krea 2", "reference_method"), ("SDXL", "UNets")):
        family = FAMILIES[name]
        model, method = family.make(), {"reference_latents_method": "index"}
        with logged() as said:
            warn_if_ignored(model, (member(family),))
            if name == "Krea 2":
                warn_if_ignored(model, (member(family, **latents, **method),))
            assert not said
            for _ in range(2):
                warn_if_ignored(model, (member(family, **latents), member(family, **latents)))
            warn_if_ignored(FAMILIES["Flux.1"].make(), (member(family, model, **latents),))
        (message,) = said
        assert '"Mira"' in message
        assert words in message
    with logged() as said:
        for name in EDITORS[:-1]:
            warn_if_ignored(FAMILIES[name].make(), (member(FAMILIES[name], **latents),))
    assert not said


def check_krea_2_reads_references_only_where_a_method_is_set():
    """What the warning says is so: the host's own model is the witness."""
    family = FAMILIES["Krea 2"]
    model = family.make()
    ((tensor, more),) = family.conditioning(1)
    reference = random(5, 1, 16, 1, 4, 4)

    def sampled(**extras):
        positive = [[tensor, {**more, **extras}]]
        return nodes.common_ksampler(
            model, 1, 1, 1.0, "euler", "simple", positive, family.conditioning(2), family.latent(32, 32)
        )[0]["samples"]

    plain = sampled()
    assert torch.equal(plain, sampled(reference_latents=[reference]))
    assert not torch.equal(plain, sampled(reference_latents=[reference], reference_latents_method="index"))
