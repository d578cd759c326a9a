"""Character Portraits with every family: one picture for each seed, whatever dimensions the latents have."""

import comfy.sd
import setting
import torch
from families import FAMILIES
from setting import counted, refused
from story_identity.core.story import Story
from story_identity.nodes.host.portraits import sample_portraits
from story_identity.nodes.identity import CharacterPortraitsNode
from story_identity.nodes.sheet import StorySheetNode
from two_passes import every_family

import nodes
from tests.closeness import assert_close

SETTINGS = {"steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}


class Decoder:
    """A VAE that shows the first three channels, one cell as so many pixels; videos stay videos, as in the host."""

    def __init__(self, family):
        model = family.make()
        self.ratio, self.latent_channels = family.ratio, model.get_model_object("latent_format").latent_channels

    def decode(self, samples):
        picture = samples[:, :3].movedim(1, -1)
        return picture.repeat_interleave(self.ratio, dim=-3).repeat_interleave(self.ratio, dim=-2)


def portraits(model, family, count, batch_size, seed=5):
    prompts = family.conditioning(1), family.conditioning(2)
    size = {"width": family.side, "height": family.side // 2}
    return sample_portraits(
        model, Decoder(family), *prompts, count=count, batch_size=batch_size, seed=seed, **SETTINGS, **size
    )


def check_each_portrait_is_the_stock_ksamplers_whatever_the_batch():
    def law(family):
        model = family.make()
        three = portraits(model, family, 3, 2)
        height, width = (side // family.ratio * family.ratio for side in (family.side // 2, family.side))
        assert three.shape == (3, height, width, 3)
        assert_close(portraits(model, family, 3, 1), three)
        latent = family.latent(family.side // 2, family.side)
        prompts = family.conditioning(1), family.conditioning(2)
        drawn = nodes.KSampler().sample(model, 6, 2, 1.0, "euler", "simple", *prompts, latent)[0]["samples"]
        picture = Decoder(family).decode(drawn)
        assert_close(three[1:2], picture.flatten(0, 1) if family.moments else picture)

    every_family(law, ["SD1.5", "Flux.1", "Flux.2", "Z-Image", "Qwen-Image", "Krea 2", "Wan 2.1", "HunyuanImage 2.1"])


def check_a_vae_of_another_family_is_refused_before_any_is_drawn():
    model, clip, vae = setting.stand_in_sdxl()
    flux = FAMILIES["Flux.1"].make()
    assert isinstance(vae, comfy.sd.VAE)
    people = [{"name": "Mira", "word": "woman", "description": "a woman with red hair"}]
    story = Story.parse({"characters": people, "frames": ["Mira waits"]})
    more = {**SETTINGS, "batch_size": 1, "seed": 0, "width": 64, "height": 64}
    with counted(flux) as count:
        refused(
            lambda: CharacterPortraitsNode.execute(flux, clip, vae, story, "", 1, "a {character}", "", **more),
            "Character Portraits: Flux draws latents of 16 channels, but the VAE reads 4",
            "connect the VAE of this model",
        )
    assert count.calls == 0


def check_a_sheet_takes_pictures_and_videos_of_one_moment_alike():
    pictures = torch.rand(2, 16, 24, 3, generator=torch.Generator().manual_seed(1))
    sheets = [
        StorySheetNode.execute(images, [2], [24], [False]).result[0]
        for images in ([pictures], [pictures.unsqueeze(1)], list(pictures.split(1)), [pictures[:1], pictures[1:, None]])
    ]
    assert all(torch.equal(sheets[0], other) for other in sheets[1:])
