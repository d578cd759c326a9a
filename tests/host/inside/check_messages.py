"""Messages that quote what a user wrote are short, on one line, and safe to log, send and print."""

import unicodedata
from types import SimpleNamespace

import torch
from check_two_passes import LEFT, layout
from story_identity.core.identity import Identity
from story_identity.core.latent_cache import CacheReplay
from story_identity.core.layout import Layout
from story_identity.core.story import Frame, Story
from story_identity.nodes.host import folders
from story_identity.nodes.host.passes import present_members
from story_identity.nodes.host.prompt import span_positions
from story_identity.nodes.identity import CharacterPortraitsNode, IdentityConditioningNode
from story_identity.nodes.injector import FaceFeaturesNode, _frame_of
from story_identity.nodes.layout import LayoutFromMasksNode
from story_identity.nodes.sampling import CastNode, NoisyLatentCacheNode
from story_identity.nodes.types import CastMember, FaceFeatures

HOSTILE = ("\ud83d", "\ud83d" * 3_000, "\x1b]0;title\x07", "a\nb", "\u202eabc", "x" * 50_000, "/" * 3_000, "\0")


def identity(name):
    return Identity(name, "", "photomaker-v1", torch.ones(4))


def member(name):
    return CastMember(identity(name), [], [])


def portraits(text):
    told = Story.parse(
        {"characters": [{"name": "Mira", "word": "woman", "description": "a woman"}], "frames": ["Mira"]}
    )
    return CharacterPortraitsNode.execute("model", "clip", "vae", told, "", 1, text, "")


def word(text):
    encoder = SimpleNamespace(encoder_id="photomaker-v1")
    return IdentityConditioningNode.execute("clip", encoder, identity("Mira"), None, text, text + "?")


def embedding_name(text):
    class Swallowing:
        def tokenize(self, words, return_word_ids=False):
            return {"l": [[(len(words) % 7, 1.0, 1)]]}

    return span_positions(Swallowing(), f"a {text}", (2, 2 + len(text)), "frame 1")


def frame_of_another_story(text):
    return _frame_of(Story((), ()), Frame(0, text, (), caption=text))


CALLS = {
    "sampler": lambda text: NoisyLatentCacheNode.validate_inputs(text),
    "another path": lambda text: CacheReplay((), text).answer(1.0),
    "cast": lambda text: present_members((member(text),), layout(LEFT)),
    "layout": lambda text: present_members((), Layout((text,), LEFT[None])),
    "absent": lambda text: present_members((member(text), member("Mira")), layout(LEFT)),
    "two of a name": lambda text: CastNode.execute(identity(text), [1], [], (member(text),)),
    "template": portraits,
    "class word": word,
    "masks": lambda text: LayoutFromMasksNode.execute(torch.zeros(1, 8, 8), 0, None, f"one, {text}, two"),
    "names": lambda text: Layout((text, text), torch.zeros(2, 8, 8, dtype=torch.bool)),
    "face": lambda text: FaceFeaturesNode.execute(
        [], [text], ["none"], [""], None, [(FaceFeatures(text.strip(), None),)]
    ),
    "frame": frame_of_another_story,
    "file": lambda text: folders.check_present("photomaker", text),
    "identity file": lambda text: folders.check_present("identities", text),
    "face models": lambda text: folders.check_face_models(text),
    "story file": lambda text: folders.story_path(text),
    "embedding": embedding_name,
}


def said_by(call, text):
    """The message that a call refuses a text with, or answers."""
    try:
        return call(text)
    except UnicodeError:
        raise
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def check_hostile_text_comes_out_short_and_safe():
    folders.register_folders()
    for name, call in CALLS.items():
        for text in HOSTILE:
            said = said_by(call, text)
            assert isinstance(said, str), (name, text[:9], said)
            assert 20 < len(said) < 2_500, (name, len(said))  # a surrogate is written with six characters
            said.encode()
            unsafe = {each for each in said if unicodedata.category(each) in ("Cc", "Cs", "Cf")}
            assert not unsafe, (name, unsafe)
