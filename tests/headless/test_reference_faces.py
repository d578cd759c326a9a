"""What a reader shows the image encoder, and what it says of whom it does not find."""

import pytest
import torch
from story_identity.core.detectors.faces import Face
from story_identity.core.photomaker import look_at
from story_identity.core.toyworld.models import WEIGHTS
from story_identity.headless.reference_faces import ReferenceReader, _upper_square, load_reader
from story_identity.lab.toyworld.training.recipes import RECIPE
from story_identity.lab.toyworld.world import sample_scene
from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from tests.closeness import assert_close

SIZES = {"hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES |= {"patch_size": 7, "image_size": 28}


class Light:
    """A recogniser that finds a face in what is not black; it is known by its colour."""

    name, width = "light", 3

    def find(self, image):
        return self.find_all([image], [None])[0]

    def find_all(self, images, masks):
        return [
            Face(torch.nn.functional.normalize(image.mean(dim=(0, 1)), dim=0), image[:9, :9]) if image.any() else None
            for image in images
        ]


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(**SIZES)).eval()


def picture(height, width, seed=0):
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def hidden(tower, crop):
    with torch.no_grad():
        return tower(look_at(crop.unsqueeze(0), 28), output_hidden_states=True).hidden_states[-2][0]


def test_the_image_encoder_sees_the_found_face_or_the_middle_of_the_picture(tower):
    images = [picture(40, 52), picture(33, 28, seed=1)]
    seen, found = ReferenceReader(tower).read(images, [None, None])
    assert found == [True, True]
    assert seen.face is None
    assert_close(seen.clip, torch.stack([hidden(tower, image) for image in images]))
    seen, _ = ReferenceReader(tower, Light()).read(images, [None, None])
    assert_close(seen.clip, torch.stack([hidden(tower, image[:9, :9]) for image in images]))
    assert_close(seen.face.norm(dim=1), torch.ones(2))


def test_the_blank_picture_is_0_after_normalisation(tower):
    seen, _ = ReferenceReader(tower).read([], [])
    with torch.no_grad():
        expected = tower(torch.zeros(1, 3, 28, 28), output_hidden_states=True).hidden_states[-2]
    assert_close(seen.blank_clip, expected)
    assert seen.clip.shape == (0, 17, 20)


def test_who_is_not_found_has_the_features_of_no_reference(tower):
    images, masks = [picture(28, 28), torch.zeros(28, 28, 3), picture(28, 28, seed=1)], [None] * 3
    seen, found = ReferenceReader(tower, Light()).read(images, masks)
    assert found == [True, False, True]
    assert torch.equal(seen.clip[1], seen.blank_clip[0])
    assert not seen.face[1].any()
    for row in (0, 2):
        alone, _ = ReferenceReader(tower, Light()).read([images[row]], [None])
        assert_close(alone.clip[0], seen.clip[row])
        assert_close(alone.face[0], seen.face[row])
    seen, found = ReferenceReader(tower).read([images[0]], [torch.zeros(28, 28, dtype=torch.bool)])
    assert found == [False]
    assert torch.equal(seen.clip, seen.blank_clip)


def test_the_square_at_the_top_of_the_box_by_hand():
    image, mask = picture(20, 30), torch.zeros(20, 30, dtype=torch.bool)
    mask[3:17, 5:14], mask[3:17, 9:10] = False, True
    mask[6, 5:14] = True  # 9 wide, 14 high
    assert torch.equal(_upper_square(image, mask), image[3:12, 5:14])
    mask[6, 5:25] = True  # 20 wide, 14 high
    assert torch.equal(_upper_square(image, mask), image[3:17, 8:22])


def test_the_toy_worlds_reader_tells_people_apart_in_one_picture():
    reader = load_reader("toyworld", "toyworld")
    assert (reader.clip_width, reader.face_width) == (RECIPE.tower["hidden_size"], 64)
    scene = sample_scene(3, people=2)
    assert scene.plan.people[0].word != scene.plan.people[1].word
    image, masks = torch.tensor(scene.image).float() / 255, list(torch.tensor(scene.masks))
    seen, found = reader.read([image, image], masks)
    assert found == [True, True]
    assert seen.clip.shape == (2, 65, RECIPE.tower["hidden_size"])
    assert seen.face[0] @ seen.face[1] < 0.9
    swapped, _ = reader.read([image, image], masks[::-1])
    assert_close(swapped.face, seen.face.flip(0))


def test_an_image_encoder_in_a_folder(tower, tmp_path):
    torch.manual_seed(1)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**SIZES)).eval()
    model.save_pretrained(tmp_path / "clip")
    reader = load_reader(str(tmp_path / "clip"))
    assert (reader.clip_width, reader.face_width) == (20, None)
    image = picture(28, 28)
    assert_close(reader.read([image], [None])[0].clip[0], hidden(model, image))
    with pytest.raises(FileNotFoundError, match="no image encoder in .*nowhere: expected config.json"):
        load_reader(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="no .onnx files"):
        load_reader("toyworld", str(WEIGHTS))
