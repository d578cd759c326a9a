"""Identity Discovery with any encoder, the portraits an identity carries, and Cast with a name, a frame and a MODEL."""

from types import SimpleNamespace

import numpy as np
import setting
import torch
from check_faces import clip_vision
from comfy_execution.graph_utils import ExecutionBlocker
from setting import refused
from story_identity.core.detectors.faces import Face
from story_identity.core.identity import Identity, discover_identity
from story_identity.core.story import Story
from story_identity.core.toyworld.recogniser import load_recogniser
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.lab.toyworld.people import sample_person
from story_identity.lab.toyworld.world import draw, portrait_plan
from story_identity.nodes.host.folders import register_folders
from story_identity.nodes.host.identity_encoders import clip_vision_id
from story_identity.nodes.identity import IdentityConditioningNode, IdentityDiscoveryNode
from story_identity.nodes.identity_files import LoadIdentityNode, SaveIdentityNode
from story_identity.nodes.sampling import CastNode

register_folders()


def pictures(count, side=28):
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(0))


def discover(encoder, portraits, **more):
    settings = {"name": "Mira", "description": "a woman", "rank": 2, "keep_ratio": 0.6, "iterations": 2}
    settings |= {"rank_too_large": "error", **more}
    return IdentityDiscoveryNode.execute(portraits, encoder, **settings).result


def in_order_of_cosine(embeddings, identity):
    cosines = torch.nn.functional.cosine_similarity(embeddings, identity[None], dim=1)
    return sorted(range(len(cosines)), key=lambda row: -float(cosines[row]))


def check_clip_vision_gives_an_identity_and_the_portraits_nearest_to_it():
    vision, portraits = clip_vision(), pictures(20)
    identity, kept, report, best = discover(vision, portraits, representatives=3)
    embeddings = torch.cat([vision.encode_image(batch)["image_embeds"] for batch in portraits.split(8)]).float()
    expected = discover_identity(embeddings, 2, 0.6, 2)
    assert torch.equal(identity.embedding, expected.embedding)
    assert torch.equal(kept, portraits[expected.kept])
    order = in_order_of_cosine(embeddings, identity.embedding)[:3]
    assert torch.equal(best, portraits[order])
    assert identity.metadata["representatives"]["numbers"] == [row + 1 for row in order]
    assert f"nearest to the identity, with their cosine: {order[0] + 1} (" in report
    assert torch.equal(identity.portraits, (255 * best).round().byte())
    assert identity.encoder == clip_vision_id(vision) == "clip_vision_model 3-20-7-28"


def check_an_identity_of_another_encoder_is_refused_by_name():
    identity, *_ = discover(clip_vision(), pictures(20))
    photomaker = SimpleNamespace(encoder_id=TOY_WORLD.name)
    refused(
        lambda: IdentityConditioningNode.execute("clip", photomaker, identity, None, "a woman", "woman"),
        '"Mira" was made with the encoder "clip_vision_model 3-20-7-28"',
        f'"{TOY_WORLD.name}" is in use',
    )
    refused(lambda: discover(object(), pictures(20)), "PhotoMaker Loader", "Load CLIP Vision", "Load Face Recogniser")


class WhiteIsNoFace:
    """Sees a face in every picture that is not white."""

    name, width = "buffalo_l", 4

    def find(self, image):
        if image.min() == 1:
            return None
        embedding = torch.cat([image.mean(dim=(0, 1)), image[0, 0, :1]])
        return Face(torch.nn.functional.normalize(embedding, dim=0), image)

    def find_all(self, images, masks):
        return [self.find(image) for image in images]


def check_portraits_without_a_face_are_left_out_and_named():
    encoder, portraits = WhiteIsNoFace(), pictures(20)
    with_white = torch.cat([portraits[:3], torch.ones(1, 28, 28, 3), portraits[3:]])
    plain, kept, _, best = discover(encoder, portraits)
    other, other_kept, report, other_best = discover(encoder, with_white)
    assert plain.encoder == "face recogniser buffalo_l"
    assert torch.equal(plain.embedding, other.embedding)
    assert torch.equal(kept, other_kept)
    assert torch.equal(best, other_best)
    assert "no face was found in: 4\n" in report
    assert report.startswith("Mira: 20 →")
    shift = [number + (number > 3) for number in plain.metadata["representatives"]["numbers"]]
    assert other.metadata["representatives"]["numbers"] == shift
    refused(lambda: discover(encoder, torch.ones(5, 28, 28, 3)), '"buffalo_l"', "none of the 5 portraits")


def check_the_toy_worlds_recogniser_is_an_encoder():
    encoder = load_recogniser()
    random = np.random.default_rng(1)
    plan = portrait_plan(sample_person(random, word="woman", hair="red"))
    portraits = torch.stack([torch.tensor(draw(plan, random).image).float() / 255 for _ in range(4)])
    identity, *_, best = discover(encoder, portraits, iterations=0)
    embeddings = torch.stack([encoder.find(portrait).embedding for portrait in portraits])
    assert torch.equal(identity.embedding, embeddings.mean(dim=0))
    assert torch.equal(best, portraits[in_order_of_cosine(embeddings, identity.embedding)])
    assert identity.encoder == "face recogniser toyworld"


def check_the_portraits_go_through_the_file():
    identity, *_, best = discover(clip_vision(), pictures(20), name="Ada")
    SaveIdentityNode.execute(identity, "", True)
    loaded, info, portraits = LoadIdentityNode.execute("Ada.safetensors", "Zoe").result
    assert loaded.name == "Zoe"
    assert torch.equal(loaded.portraits, identity.portraits)
    assert torch.equal((255 * portraits).round(), (255 * best).round())
    assert "4 portraits" in info
    SaveIdentityNode.execute(Identity("Ada", "", "photomaker-v1", torch.ones(4)), "", True)
    _, info, blocked = LoadIdentityNode.execute("Ada.safetensors", "").result
    assert isinstance(blocked, ExecutionBlocker)
    assert '"Ada" carries no portraits' in blocked.message
    assert "portraits" not in info


def story(*frames):
    people = [
        {"name": "Zoë", "word": "woman", "description": "a young woman"},
        {"name": "Ben", "word": "man", "description": "an old man"},
    ]
    return Story.parse({"characters": people, "frames": list(frames)})


def check_cast_takes_a_name_a_frame_and_a_model():
    model = setting.tiny_sd15()
    positive, negative = setting.conditioning(model, 1), setting.conditioning(model, 2)
    both, ben, nobody = story("Zoë and Ben", "Ben waits", "rain").frames
    zoe = {"positive": positive, "negative": negative, "name": "Zoe\u0308"}
    for frame, names in ((both, ["Zoë"]), (ben, []), (nobody, [])):
        (cast,) = CastNode.execute(**zoe, frame=frame).result
        assert [member.name for member in cast] == names
    (cast,) = CastNode.execute(**zoe, frame=both, model=model).result
    (member,) = cast
    assert (member.positive, member.negative) == (positive, negative)
    assert member.model is model
    assert member.name == both.appearances[0].character.name  # in the letters of the layout
    identity = Identity("Ben", "", "photomaker-v1", torch.ones(4))
    (two,) = CastNode.execute(identity, positive, negative, cast, frame=both, name=" Ben ").result
    assert [(each.name, each.model) for each in two] == [("Zoë", model), ("Ben", None)]
    assert two[1].identity is identity
    refused(lambda: CastNode.execute(positive=positive, negative=negative), "nobody is named")
    refused(lambda: CastNode.execute(identity, positive, negative, name="Bob"), '"Bob"', '"Ben"')
    refused(lambda: CastNode.execute(positive=positive, negative=[], name="Bob", frame=both), '"Bob"', '"Zoë", "Ben"')
    refused(lambda: CastNode.execute(**{**zoe, "name": "Ben"}, cast=two), 'two identities called "Ben"')


def check_old_graphs_of_cast_work_as_they_did():
    model = setting.tiny_sd15()
    positive, negative = setting.conditioning(model, 1), setting.conditioning(model, 2)
    identity = Identity("Ben", "", "photomaker-v1", torch.ones(4))
    (cast,) = CastNode.execute(identity=identity, positive=positive, negative=negative).result
    assert [(each.identity, each.positive, each.negative, each.model) for each in cast] == [
        (identity, positive, negative, None)
    ]
    assert CastNode.execute(identity=identity, positive=[], negative=negative).result[0] == ()
