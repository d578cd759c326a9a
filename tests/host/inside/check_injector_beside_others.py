"""The ID injector beside other patches and in the re-denoise pass, and what it refuses."""

from dataclasses import replace

import setting
import torch
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from frames import amsa, controlled, on_two_gpus, prompts, split_calls, warnings
from injecting import (
    MIRA,
    SD15,
    SIDE,
    THREE,
    close,
    differ,
    features,
    first_layer,
    injected,
    left_and_right,
    model,
    random,
    sample,
    story,
    tiny,
    write,
)
from setting import refused
from story_identity.core.attention import plain_attention
from story_identity.core.identity import Identity
from story_identity.core.layout import Layout
from story_identity.nodes.injector import LoadIDAdapterNode
from story_identity.nodes.sampling import NoisyLatentCacheNode, RedenoiseNode
from story_identity.nodes.types import CastMember, FaceFeatures

from tests.stand_ins.ip_adapters import image_side, layer_side


def their_adapter(q, k, v, extra):
    """An attn2 replacement of the same form as IPAdapter_plus's."""
    theirs = random(1, 4, q.shape[-1], seed=7).repeat(len(q), 1, 1)
    return plain_attention(q, k, v, extra["n_heads"]) + plain_attention(q, theirs, theirs, extra["n_heads"])


def check_beside_an_adapter_that_replaces_the_layers():
    other = model().clone()
    for side, number, _ in SD15:
        other.set_model_attn2_replace(their_adapter, side, number)
    ours, theirs, both = first_layer(injected()[0]), first_layer(other), first_layer(injected(other)[0])
    plain = first_layer(model())
    assert close(both - theirs, ours - plain)
    assert differ(theirs, plain)
    assert differ(ours, plain)


def freeu(source):
    """A patch of the same form as FreeU, whose own patch looks for the widths of the real models."""
    patched = source.clone()
    patched.set_model_output_block_patch(lambda h, skip, options: (1.2 * h, 0.9 * skip))
    return patched


def overridden(source):
    """An attention override, as Sage attention's nodes set it."""
    patched = source.clone()
    options = patched.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda func, q, *args, **kwargs: func(0.5 * q, *args, **kwargs)
    return patched


def check_beside_freeu_pag_and_an_attention_override():
    def draw(patched):
        return sample(patched, width=2 * SIDE)  # perturbed attention is attention where the smallest grid is one place

    ours = draw(injected()[0])
    for patch in (freeu, overridden, lambda source: PerturbedAttentionGuidance.execute(source, 3.0).result[0]):
        before, after = draw(patch(injected()[0])), draw(injected(patch(model()))[0])
        assert torch.equal(before, after)
        assert differ(before, draw(patch(model())))
        assert differ(before, ours)


def check_beside_a_controlnet_with_a_hint_per_frame():
    hints = torch.tensor([1.0, 3.0, -2.0])[:, None, None, None].expand(3, 3, 64, 64)
    guided = {"positive": controlled(model(), setting.conditioning(model(), 1), hints)}
    both = sample(injected()[0], **guided)
    assert differ(both, sample(model(), **guided))
    assert differ(both, sample(injected()[0]))


def check_beside_amsa_in_either_order():
    positive, _ = prompts(model(), THREE)
    given = {"positive": positive, "steps": 3}
    shared = amsa(model(), THREE)
    ours_last, ours_first = (sample(each, **given) for each in (injected(shared)[0], amsa(injected()[0], THREE)))
    assert torch.equal(ours_last, ours_first)
    assert differ(ours_last, sample(shared, **given))
    assert differ(ours_last, sample(injected()[0], **given))


def check_with_amsas_anchors_every_frame_keeps_its_picture():
    """AMSA samples groups of frames. Here it may share in the first step only, which it never does."""
    positive, _ = prompts(model(), THREE)
    given = {"positive": positive, "steps": 3}
    never = {"anchors": 2, "end": 0.001}
    alone = sample(injected()[0], **given)
    for patched in (injected(amsa(model(), THREE, **never))[0], amsa(injected()[0], THREE, **never)):
        assert close(sample(patched, **given), alone)


def check_the_redenoise_pass_changes_faces_inside_the_mask_only():
    told = story("Mira reads")
    layout = Layout(("Mira",), left_and_right()[:1], "frame 1")
    conds = {"positive": setting.conditioning(model(), 1), "negative": setting.conditioning(model(), 2)}
    settings = {"seed": 3, "steps": 4, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    settings |= {"keep_from_step": 0, "precision": "float32", "latent_image": setting.empty_latent(SIDE, SIDE)}
    latent, cache = NoisyLatentCacheNode.execute(model(), **conds, **settings).result
    cast = (CastMember(Identity("Mira", "", "photomaker-v1", torch.ones(4)), **conds),)

    def redenoised(patched):
        return RedenoiseNode.execute(patched, cast, cache, layout, 1, 0, 4.0, "hard").result[0]["samples"]

    plain, faced = redenoised(model()), redenoised(injected(told=told, layout=layout)[0])
    inside = torch.arange(SIDE) < 3
    assert torch.equal(faced[..., ~inside], latent["samples"][..., ~inside])
    assert torch.equal(plain[..., ~inside], latent["samples"][..., ~inside])
    assert differ(faced[..., inside], plain[..., inside])


# --- what is refused, before the first UNet call


def check_what_does_not_fit_together_is_refused():
    told = story("Mira and Ben dance")
    masks = left_and_right()
    wide = Layout(("Mira", "Ben"), torch.zeros(2, 64, 96, dtype=torch.bool))
    with setting.counted(model()) as count:
        refused(lambda: sample(injected()[0], 2), "LATENT holds 2 pictures", "story has 3 frames")
        refused(lambda: sample(injected(told=told, layout=wide, faces=(MIRA,))[0], 1), "96x64", "8x8", "proportions")
        refused(lambda: sample(on_two_gpus(injected()[0])), "Shuffled ID Injector works on one GPU", "MultiGPU")
        refused(lambda: injected(injected()[0]), "has a Shuffled ID Injector already")
        refused(lambda: injected(faces=(FaceFeatures("Ada", features()),)), 'no character "Ada"')
        refused(lambda: injected(layout=Layout(("Mira", "Ben"), masks)), "1 layouts for 3 frames")
        refused(lambda: injected(told=told, layout=Layout(("Ben",), masks[:1])), "frame 1", 'no mask for "Mira"')
        refused(lambda: injected(frame=[told.frames[0]]), "is not of this story", "same STORY")
        refused(lambda: injected(start_percent=0.7, end_percent=0.2), "starts at 0.7 and ends at 0.2")
        no_clip = FaceFeatures("Mira", replace(MIRA.features, clip=None, blank_clip=None))
        refused(lambda: injected(faces=(no_clip,)), 'pictures of "Mira"', "needs hidden states of an image encoder")
        no_face = FaceFeatures("Mira", replace(MIRA.features, face=None))
        refused(lambda: injected(kind="FaceID", faces=(no_face,)), 'pictures of "Mira"', "needs face embeddings")
        refused(lambda: injected(tiny(cross=96)), "plus-face.safetensors", "64 wide", "reads 96")
    assert count.calls == 0


def check_files_of_other_kinds_are_refused():
    plain = {"image_proj": {"proj.weight": torch.ones(1)}, "ip_adapter": layer_side([64])}
    refused(lambda: LoadIDAdapterNode.execute(write("plain.bin", plain)), "plain.bin", "is a plain IP-Adapter")
    lora = {"lora": {"a": torch.ones(1)}, "more": {"b": torch.ones(1)}}
    refused(lambda: LoadIDAdapterNode.execute(write("x.safetensors", lora)), "x.safetensors", "not an IP-Adapter file")
    refused(lambda: LoadIDAdapterNode.execute("missing.bin"), "missing.bin", "Put the file there")
    few = {"image_proj": image_side("plus-face"), "ip_adapter": layer_side([64] * 3)}
    (other,) = LoadIDAdapterNode.execute(write("few.bin", few)).result
    refused(lambda: injected(adapter=other), "3 cross-attention layers", "has 16")


def check_a_prompt_with_an_area_is_drawn_without_faces_and_says_so():
    """Also where the area is the whole picture: the host makes up an unconditional prompt of the same uuid."""
    (whole,) = setting.conditioning(model(), 1)
    for area in ((4, 8, 0, 0), (8, 8, 0, 0)):
        both = [whole, [whole[0], {**whole[1], "area": area, "strength": 1.0}]]
        with warnings() as messages:
            mixed = sample(injected()[0], positive=both)
        assert messages == ["Shuffled ID Injector: a prompt has an area of its own; no faces are injected there."]
        assert differ(mixed, sample(model(), positive=both)), area
        with split_calls():
            assert close(mixed, sample(injected()[0], positive=both)), area
