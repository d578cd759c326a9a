"""Where identifying words are among the tokens of the text encoders of diffusion transformers.

The tokenizers and what encoders do with the sequence are the host's own; only the networks are replaced, by ones whose
answer at every token is the token's number.
"""

import contextlib
import importlib
import io
import itertools

import comfy.text_encoders.flux
import comfy.text_encoders.hunyuan_video
import torch
from comfy import sd1_clip
from comfy_extras.nodes_sd3 import EmptySD3LatentImage
from families import FAMILIES
from setting import refused
from story_identity.core.story import Story
from story_identity.nodes.amsa import AMSANode, PreviewAttentionMasksNode
from story_identity.nodes.host.story_prompts import NAMED, OWN_ROWS, OWN_SHAPES, encode_frames
from story_identity.nodes.host.word_tokens import TOKENIZERS
from story_identity.nodes.story import EncodeStoryNode

import nodes
from tests.closeness import largest_difference

PEOPLE = [
    {"name": "Mira", "word": "woman", "description": "a young woman with short red hair"},
    {"name": "Ben", "word": "man", "description": "an old man"},
]
FRAMES = ["Mira waits at a bus stop", "Mira meets Ben, smiling, under the very old and very tall trees", "Ben runs"]
FURTHER = "conditioning_llama3"
STACKED = {"Flux2Tokenizer": 3, "KleinTokenizer": 3, "KleinTokenizer8B": 3, "Krea2Tokenizer": 12}
"""How many layers' states the encoder takes."""

ENCODERS = {
    "FluxTokenizer": ("flux", None),
    "Flux2Tokenizer": ("flux", "Flux2TEModel"),
    "KleinTokenizer": ("flux", "Flux2TEModel"),
    "PixArtTokenizer": ("pixart_t5", None),
    "QwenImageTokenizer": ("qwen_image", "QwenImageTEModel"),
    "Krea2Tokenizer": ("krea2", "Krea2TEModel"),
    "ZImageTokenizer": ("z_image", "ZImageTEModel"),
    "LuminaTokenizer": ("lumina2", "LuminaModel"),
    "KleinTokenizer8B": ("flux", "Flux2TEModel"),
    "SD3Tokenizer": ("sd3_clip", None),
    "AuraT5Tokenizer": ("aura_t5", "AuraT5Model"),
    "AnimaTokenizer": ("anima", "AnimaTEModel"),
    "LongCatImageTokenizer": ("longcat_image", "LongCatImageTEModel"),
    "HiDreamTokenizer": ("hidream", None),
}
"""Module and class of each encoder; None: T5 alone, CLIP's tokens before T5's, or Llama's behind them."""


SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]


def small_vocabulary():
    """Bytes, and a few that are merged."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", "w"), ("o", "m"), ("a", "n"), ("\u0120", "h"), ("a", "i"), ("ai", "r")]
    vocabulary = {token: rank for rank, token in enumerate([*SPECIAL, *letters, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def small_mistral(_data):
    """In place of the vocabulary that comes with Mistral's weights."""
    return {"tokenizer_object": small_vocabulary(), "legacy": False}


class SmallLlama:
    """In place of Llama's vocabulary, which not every copy of the host has."""

    @staticmethod
    def from_pretrained(_path, **_more):
        from tokenizers import processors
        from transformers import PreTrainedTokenizerFast

        tokenizer = small_vocabulary()
        start = SPECIAL[1]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, SPECIAL.index(start))]
        )
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


comfy.text_encoders.flux.load_mistral_tokenizer = small_mistral
comfy.text_encoders.hunyuan_video.LlamaTokenizerFast = SmallLlama


class Encoder:
    """A CLIP with the host's tokenizer, and with an encoder whose answers are the numbers of the tokens."""

    def __init__(self, name):
        module, model = ENCODERS[name]
        self.name = name
        self.module = importlib.import_module(f"comfy.text_encoders.{module}")
        self.tokenizer = getattr(self.module, name)(tokenizer_data=data_of(name))
        self.model = None if model is None else getattr(self.module, model)

    def tokenize(self, text, return_word_ids=False):
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)

    def encode_from_tokens_scheduled(self, tokens):
        counts = {key: sum(map(len, windows)) for key, windows in tokens.items()}
        if self.model is None:
            numbers = torch.arange(counts["t5xxl"])
            if "llama" in counts:
                states = 2000 + torch.arange(counts["llama"])
                return [[1.0 + numbers[None, :, None], {FURTHER: states[None, None, :, None].repeat(1, 2, 1, 1)}]]
            if "g" in counts:
                numbers = torch.cat([1000 + torch.arange(counts["l"]), numbers])
            return [[numbers[None, :, None].float(), {}]]
        made = self.model.__new__(self.model)
        torch.nn.Module.__init__(made)
        with numbered(counts.popitem()[1], STACKED.get(self.name)):
            out, _, extra = self.model.encode_token_weights(made, tokens)
        return [[out[..., :1], extra]]

    def spelled(self, text, numbers):
        """What the tokens of the given numbers say."""
        key = TOKENIZERS[self.name].key
        inner = [getattr(self.tokenizer, each, None) for each in (key, getattr(self.tokenizer, "clip", ""))]
        tokenizer = next(each for each in inner if each is not None).tokenizer
        stream = [token for window in self.tokenize(text)[key] for token, *_ in window]
        chosen = [stream[number] for number in numbers]
        return (
            tokenizer.decode(chosen) if hasattr(tokenizer, "decode") else tokenizer.tokenizer.decode(chosen)
        ).strip()


@contextlib.contextmanager
def numbered(count, layers):
    """The network under the host's encoder gives every token's number."""
    encode = sd1_clip.SD1ClipModel.encode_token_weights

    def answer(self, tokens):
        out = torch.arange(count, dtype=torch.float32)[None, :, None]
        out = out if layers is None else out[:, None].repeat(1, layers, 1, 1)
        return out, torch.zeros(1, 4), {"attention_mask": torch.ones(1, count, dtype=torch.long)}

    sd1_clip.SD1ClipModel.encode_token_weights = answer
    try:
        yield
    finally:
        sd1_clip.SD1ClipModel.encode_token_weights = encode


def data_of(name):
    """The vocabularies that come with the weights, small ones."""
    if name == "LuminaTokenizer":
        import sentencepiece

        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text for frame in told().frames for text in [frame.prompt]] * 4),
            model_writer=model,
            vocab_size=60,
            hard_vocab_limit=False,
            bos_id=2,
            eos_id=1,
            pad_id=0,
            unk_id=3,
            minloglevel=2,
        )
        return {"spiece_model": torch.frombuffer(bytearray(model.getvalue()), dtype=torch.uint8)}
    return {}


def told():
    return Story.parse({"characters": PEOPLE, "frames": FRAMES})


def check_words_are_found_in_every_encoder_in_templates_and_after_trimming():
    assert set(ENCODERS) == set(TOKENIZERS)
    for name in ENCODERS:
        if name == "HiDreamTokenizer":
            continue  # two encoders, in the next check
        clip, story = Encoder(name), told()
        positive, negative = encode_frames(clip, story.frames, ["Mira", "Ben"])
        rows, extras = positive[0]
        named = extras[NAMED]
        assert NAMED not in negative[0][1]
        for number, frame in enumerate(story.frames):
            for person, places in zip(named["names"], named["positions"], strict=True):
                appearance = frame.appearance_of(person)
                numbers = places[number]
                if not named.get("as_given"):
                    numbers = [int(rows[number, place, 0]) for place in numbers]
                spans = () if appearance is None else appearance.identifying_words
                wanted = [frame.prompt[slice(*span)] for span in spans]
                late = [each for each in numbers if each < 1000]
                said = clip.spelled(frame.prompt, late).replace(" ", "")
                assert said == "".join(wanted).replace(" ", ""), (name, frame.label, person, said, wanted)
                assert (name == "SD3Tokenizer" and bool(wanted)) == (len(late) < len(numbers)), name
        padded = ("FluxTokenizer", "KleinTokenizer", "KleinTokenizer8B", "SD3Tokenizer", "AuraT5Tokenizer")
        padded += ("LongCatImageTokenizer", "HiDreamTokenizer")
        assert (OWN_SHAPES in extras) == (name not in padded), name
        assert (OWN_ROWS in extras) == (name == "AnimaTokenizer"), name


def check_words_of_hidream_are_found_in_t5_and_twice_in_llama():
    """The network's text is T5's tokens, Llama's last states, and those of the block's layer."""
    clip, story = Encoder("HiDreamTokenizer"), told()
    positive, _ = encode_frames(clip, story.frames, ["Mira", "Ben"])
    rows, extras = positive[0]
    named, t5, llama = extras[NAMED], rows.shape[1], extras[FURTHER].shape[2]
    assert named["as_given"]
    for number, frame in enumerate(story.frames):
        for person, places in zip(named["names"], named["positions"], strict=True):
            appearance = frame.appearance_of(person)
            spans = () if appearance is None else appearance.identifying_words
            wanted = "".join(frame.prompt[slice(*span)] for span in spans).replace(" ", "")
            parts = [0, t5, t5 + llama, t5 + 2 * llama]
            found = [
                [place - start for place in places[number] if start <= place < end]
                for start, end in itertools.pairwise(parts)
            ]
            assert found[1] == found[2]
            assert sum(map(len, found)) == len(places[number])
            streams = clip.tokenize(frame.prompt)
            said = []
            for key, numbers in (("t5xxl", found[0]), ("llama", found[1])):
                tokens = [token for window in streams[key] for token, *_ in window]
                tokenizer = getattr(clip.tokenizer, key).tokenizer
                said.append(tokenizer.decode([tokens[each] for each in numbers]).replace(" ", ""))
            assert said == [wanted, wanted], (frame.label, person, said, wanted)
    silent = Encoder("HiDreamTokenizer")
    encode = silent.encode_from_tokens_scheduled
    for missing, left in (("t5xxl", [False, True, True]), ("llama", [True, False, False])):
        silent.encode_from_tokens_scheduled = lambda tokens, missing=missing: without(encode(tokens), missing)
        positive, _ = encode_frames(silent, story.frames[:1], ["Mira"])
        (places,) = positive[0][1][NAMED]["positions"][0]
        assert [any(a <= place < b for place in places) for a, b in itertools.pairwise(parts)] == left, missing


def without(encoded, missing):
    """What HiDream's encoder gives when the file of one of the two is not loaded."""
    ((rows, extras),) = encoded
    if missing == "t5xxl":
        return [[torch.zeros_like(rows), extras]]
    return [[rows, {FURTHER: torch.zeros_like(extras[FURTHER])}]]


class WideEncoder(Encoder):
    """One whose answers are as wide as a family's prompts, and differ from token to token."""

    def encode_from_tokens_scheduled(self, tokens):
        ((numbers, extras),) = super().encode_from_tokens_scheduled(tokens)
        return [[(numbers * torch.arange(1, 49)).cos(), extras]]


def check_the_whole_graph_draws_a_story():
    """Encode Story, AMSA Model Patch, the stock KSampler, Preview Attention Masks; the prompts differ in length."""
    family, story = FAMILIES["Z-Image"], told()
    model = family.make()
    positive, negative, frames = EncodeStoryNode.execute(WideEncoder("ZImageTokenizer"), story).result
    (latent,) = EmptySD3LatentImage.execute(128, 128, frames).result

    def draw(strength):
        settings = (strength, "all", 0.0, 1.0, True, 0, 0.0, 0.5)
        (patched,) = AMSANode.execute(model, story, *settings).result
        return nodes.KSampler().sample(patched, 1, 3, 3.0, "euler", "simple", positive, negative, latent)[0]

    shared, apart = draw(1.0), draw(0.0)
    assert torch.equal(shared["samples"][0], apart["samples"][0])
    assert largest_difference(shared["samples"], apart["samples"]) > 1e-4
    pictures = torch.rand(frames, 64, 64, 3)
    drawn = PreviewAttentionMasksNode.execute(model, positive, shared, pictures, 0.5, 1).result[0]
    assert drawn.shape == pictures.shape


def check_encoders_that_are_not_known_are_refused():
    clip = Encoder("QwenImageTokenizer")
    clip.tokenizer = type("OvisTokenizer", (), {"tokenize_with_weights": clip.tokenizer.tokenize_with_weights})()
    refused(lambda: encode_frames(clip, told().frames, ["Mira"]), "Encode Story", '"qwen25_7b"', "Z-Image")
