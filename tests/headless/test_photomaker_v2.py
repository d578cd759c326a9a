"""PhotoMaker v2 on the command line's side: faces of the portraits, two tokens of a prompt, and a whole run."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from story_identity.core.detectors.faces import Face
from story_identity.core.identity import Identity
from story_identity.core.photomaker import ENCODER_ID_V2, look_at
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.headless import identity_generator
from story_identity.headless.checkpoint import load_checkpoint
from story_identity.headless.identity_generator import load_photomaker
from story_identity.headless.prompts import encode_prompt
from story_identity.headless.run import run_story
from story_identity.headless.run_settings import settings_of
from story_identity.headless.studio import open_studio

from tests.closeness import assert_close
from tests.stand_ins.photomaker import FACE, TOKENS, id_encoder_weights_v2

from .stories import PlaceDetector, contents, settings, story

WIDTH = TOY_WORLD.text_width  # of the toy world's prompts


class Recogniser:
    """Sees a face in every picture whose first colour is not white."""

    def __init__(self, width=FACE):
        self.width, self.name = width, "insightface"

    def find(self, image):
        if image[0, 0].min() == 1:
            return None
        colour = image.float().mean(dim=(0, 1)) @ torch.randn(3, self.width, generator=torch.Generator().manual_seed(1))
        return Face(torch.nn.functional.normalize(colour, dim=0), image, 20.0)

    def find_all(self, images, masks):
        return [self.find(image) for image in images]


class Overlooking(Recogniser):
    """Sees no face in the pictures with these numbers, in the order in which they are shown."""

    def __init__(self, overlooked):
        super().__init__()
        self.overlooked, self.shown = overlooked, 0

    def find(self, image):
        self.shown += 1
        return None if self.shown - 1 in self.overlooked else super().find(image)


@pytest.fixture(scope="module")
def file(toyworld_folder, tmp_path_factory):
    """A random file of version 2 for the toy world's model."""
    lora = {k: v for k, v in load_file(toyworld_folder / "photomaker.safetensors").items() if k.startswith("lora_")}
    encoder = id_encoder_weights_v2(WIDTH, heads=1, depth=2, side=28)
    path = tmp_path_factory.mktemp("v2") / "photomaker-v2.safetensors"
    save_file({f"id_encoder.{key}": value for key, value in encoder.items()} | lora, path)
    return path


@pytest.fixture
def face_models(tmp_path, monkeypatch):
    """A folder of face models, and a recogniser in their place."""
    folder = tmp_path / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    (folder / "w600k_r50.onnx").write_bytes(b"weights")
    monkeypatch.setattr(identity_generator, "load_face_recogniser", lambda path: Recogniser())
    return str(folder)


@pytest.fixture
def photomaker(toyworld_folder, file, face_models):
    pipe = load_checkpoint(str(toyworld_folder))
    return pipe, load_photomaker(file, pipe, face_models)


def test_an_embedding_is_the_perceivers_of_a_portrait_and_its_face(photomaker):
    _, encoder = photomaker
    pictures = torch.rand(5, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    pictures[2] = 1
    found, rows = encoder.embed_found(pictures)
    assert rows == [0, 1, 3, 4]
    assert found.shape == (4, TOKENS * WIDTH)
    for row, embedding in zip(rows, found, strict=True):
        face = 20 * Recogniser().find(pictures[row]).embedding
        with torch.no_grad():
            hidden = encoder.vision(look_at(pictures[row][None], 28)).last_hidden_state
            expected = encoder.qformer_perceiver(face[None], hidden)[0].flatten()
        assert_close(embedding, expected)
    none, rows = encoder.embed_found(torch.ones(3, 32, 32, 3))
    assert (none.shape, rows) == ((0, TOKENS * WIDTH), [])


def test_an_identity_goes_into_two_tokens(photomaker):
    pipe, encoder = photomaker
    prompt = encode_prompt(pipe, "a woman woman on a beach", "frame 1")
    identity = torch.randn(TOKENS * WIDTH, generator=torch.Generator().manual_seed(1))
    fused = encoder.fuse(prompt, [2, 3], identity)
    assert (fused.embeddings != prompt.embeddings).any(dim=-1)[0].nonzero().flatten().tolist() == [2, 3]
    with torch.no_grad():
        expected = encoder.fuse_module.fuse_fn(prompt.embeddings[0, 2:4], identity.view(TOKENS, WIDTH))
    assert_close(fused.embeddings[0, 2:4], expected)


@pytest.mark.slow
def test_a_run_finds_identities_and_draws_them(toyworld_folder, file, face_models, tmp_path):
    told = story(["Mira and Tom waving in a forest"])
    chosen = settings(toyworld_folder, photomaker=str(file), face_models=face_models)
    record = chosen.record()
    assert record["face_models"]["name"] == "buffalo_l"
    manifest = json.loads(json.dumps({"settings": record, "places": chosen.places()}))
    assert settings_of(manifest) == chosen
    folder = run_story(told, chosen, tmp_path / "run", detector=PlaceDetector())
    for name in ("Mira", "Tom"):
        identity = folder.saved_identity(name)
        assert (identity.encoder, identity.embedding.shape) == (ENCODER_ID_V2, (TOKENS * WIDTH,))
    before = folder.frame(0).read_bytes()
    assert run_story(told, chosen, tmp_path / "again", detector=PlaceDetector()).frame(0).read_bytes() == before


def test_without_face_models_only_identities_from_files_are_drawn(toyworld_folder, file, tmp_path):
    told = story(["Mira waving in a forest"])
    with pytest.raises(ValueError, match="PhotoMaker v2 reads a face embedding of each portrait: give --face-models"):
        run_story(told, settings(toyworld_folder, photomaker=str(file)), tmp_path / "run", detector=PlaceDetector())
    assert not contents(tmp_path / "run")
    saved = Identity("Mira", "", ENCODER_ID_V2, torch.randn(TOKENS * WIDTH)).save(tmp_path / "mira.safetensors")
    chosen = settings(toyworld_folder, photomaker=str(file), identities=(("Mira", str(saved)),))
    assert "face_models" not in chosen.record()
    folder = run_story(told, chosen, tmp_path / "run", detector=PlaceDetector())
    assert folder.frame(0).exists()
    first = Identity("Mira", "", "photomaker-v1", torch.randn(2048)).save(tmp_path / "v1.safetensors")
    chosen = settings(toyworld_folder, photomaker=str(file), identities=(("Mira", str(first)),))
    with pytest.raises(ValueError, match='with the encoder "photomaker-v1", but "photomaker-v2" is in use'):
        run_story(told, chosen, tmp_path / "mixed", detector=PlaceDetector())


def test_portraits_without_faces_are_left_out_or_refused(toyworld_folder, file, face_models, monkeypatch):
    person = story().characters[0]
    chosen = settings(toyworld_folder, photomaker=str(file), face_models=face_models, portraits=8)
    studio = open_studio(chosen, "cpu")
    monkeypatch.setattr(studio.photomaker, "recogniser", Overlooking([1, 5]))
    identity, kept = studio.discover(person, 0, lambda pictures: None, lambda *about: None)
    assert identity.metadata["discovery"]["without_face"] == [1, 5]
    rounds = identity.metadata["discovery"]["rounds"]
    seen = [0, 2, 3, 4, 6, 7]
    assert kept == [seen[row] for row in rounds[-1]["kept"]]
    monkeypatch.setattr(studio.photomaker, "recogniser", Overlooking(range(8)))
    with pytest.raises(ValueError, match='Portraits of "Mira": the face models find a face in none of the 8'):
        studio.discover(person, 0, lambda pictures: None, lambda *about: None)


def test_other_face_models_are_refused(toyworld_folder, file, face_models, monkeypatch):
    pipe = load_checkpoint(str(toyworld_folder))
    with pytest.raises(ValueError, match="v2.safetensors.* is PhotoMaker v2.*in place of the toy world's"):
        load_photomaker(file, pipe, "toyworld")
    monkeypatch.setattr(identity_generator, "load_face_recogniser", lambda path: Recogniser(128))
    with pytest.raises(ValueError, match="reads face embeddings of 512 numbers; the face models give 128"):
        load_photomaker(file, pipe, face_models)
