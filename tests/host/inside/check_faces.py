"""Face Features and Load ID Adapter in the host: its own image encoder, small, and where files lie."""

import sys
from pathlib import Path

import comfy.clip_vision
import folder_paths
import torch
from setting import refused
from story_identity.core.detectors.faces import Face
from story_identity.nodes.host import reference_faces as host_faces
from story_identity.nodes.host.folders import (
    NO_FACE_MODELS,
    TOY_FACE_MODELS,
    face_models,
    face_models_folder,
    register_folders,
)
from story_identity.nodes.injector import FaceFeaturesNode, LoadIDAdapterNode

from tests.closeness import assert_close, largest_difference

register_folders()

WIDTH, LAYERS = 20, 3


def clip_vision():
    """The host's CLIP vision model with random weights."""
    config = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 32}
    config |= {"num_channels": 3, "patch_size": 7, "image_size": 28, "projection_dim": 8}
    config |= {"model_type": "clip_vision_model", "hidden_act": "gelu"}
    model = comfy.clip_vision.ClipVisionModel(config)
    generator = torch.Generator().manual_seed(0)
    state = {
        key: value if value.dtype == torch.long else torch.randn(value.shape, generator=generator) / WIDTH**0.5
        for key, value in model.model.state_dict().items()
    }
    model.load_sd(state)
    return model


def picture(height, width, seed=0):
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def encode(images, name="Mira", face_models=NO_FACE_MODELS, crop="centre square", **more):
    """The node's result; every value in a list, as the host hands them over."""
    lists = {key: [value] for key, value in more.items()}
    return FaceFeaturesNode.execute(images=images, name=[name], face_models=[face_models], crop=[crop], **lists).result[
        0
    ]


def check_features_are_the_hidden_states_before_the_last_layer():
    vision = clip_vision()
    first, second = picture(40, 52), picture(33, 28, seed=1)
    (mira,) = encode([first, torch.cat([second, second])], clip_vision=vision)
    assert mira.name == "Mira"
    seen = mira.features
    assert seen.face is None
    assert seen.clip.shape == (3, 17, WIDTH)
    assert torch.equal(seen.clip[0], vision.encode_image(first)["penultimate_hidden_states"][0])
    assert torch.equal(seen.clip[1], seen.clip[2])
    (whole,) = encode([first], clip_vision=vision, crop="whole picture")
    assert torch.equal(whole.features.clip, vision.encode_image(first, crop=False)["penultimate_hidden_states"])
    assert not torch.equal(whole.features.clip[0], seen.clip[0])


def check_the_blank_picture_is_0_after_normalisation():
    vision = clip_vision()
    (mira,) = encode([picture(28, 28)], clip_vision=vision)
    expected = vision.model(pixel_values=torch.zeros(1, 3, 28, 28), intermediate_output=-2)[1]
    assert torch.equal(mira.features.blank_clip, expected)
    black = vision.encode_image(torch.zeros(1, 28, 28, 3))["penultimate_hidden_states"]
    assert largest_difference(mira.features.blank_clip, black) > 1e-3


def check_characters_are_chained():
    vision = clip_vision()
    mira = encode([picture(28, 28)], clip_vision=vision)
    both = encode([picture(28, 28, seed=1)], name=" Tom ", clip_vision=vision, faces=mira)
    assert [each.name for each in both] == ["Mira", "Tom"]
    assert both[0] is mira[0]
    refused(lambda: encode([picture(28, 28)], clip_vision=vision, faces=both), '"Mira" has a face already')


class Recogniser:
    """Finds a white face in every picture that is not black."""

    width = 3

    def find(self, image):
        if not image.any():
            return None
        return Face(torch.nn.functional.normalize(image.mean(dim=(0, 1)), dim=0), torch.ones(224, 224, 3))


def check_a_found_face_is_what_the_image_encoder_sees():
    vision = clip_vision()
    pictures = [picture(28, 28)[0], picture(40, 30, seed=1)[0]]

    def features(crop, encoder=vision):
        return host_faces.reference_features(pictures, encoder, Recogniser(), crop, lambda _: None)

    found, centre = features("found face"), features("centre square")
    white = vision.encode_image(torch.ones(1, 28, 28, 3))["penultimate_hidden_states"]
    assert_close(found.clip, white.expand(2, -1, -1))
    assert largest_difference(centre.clip, found.clip) > 1e-2
    assert torch.equal(found.face, centre.face)
    assert found.face.shape == (2, 3)
    alone = features("centre square", None)
    assert alone.clip is None
    assert alone.blank_clip is None
    pictures.append(torch.zeros(9, 9, 3))
    refused(lambda: features("found face"), "no face in picture 3 of 3", "plus-face")


def check_what_is_missing_is_named():
    vision = clip_vision()
    one = [picture(28, 28)]
    refused(lambda: encode(one), "connect a CLIP_VISION")
    refused(lambda: encode(one, crop="found face", clip_vision=vision), "no face models are chosen")
    refused(lambda: encode(one, face_models="nothing"), 'face models "nothing" are not there', "non-commercial")
    vision.model_type = "siglip_vision_model"
    refused(lambda: encode(one, clip_vision=vision), "is siglip_vision_model", "CLIP ViT-H")
    assert "models/ipadapter" in LoadIDAdapterNode.validate_inputs("ip-adapter-plus-face_sdxl_vit-h.safetensors")
    assert "non-commercial" in FaceFeaturesNode.validate_inputs(["buffalo_x"])
    assert FaceFeaturesNode.validate_inputs([NO_FACE_MODELS]) is True
    assert FaceFeaturesNode.validate_inputs([TOY_FACE_MODELS]) is True
    assert FaceFeaturesNode.validate_inputs([None]) is True


def check_face_models_are_folders_of_onnx_files():
    root = Path(folder_paths.get_folder_paths("insightface")[0])
    for name in ("models/antelopev2/antelopev2/a.onnx", "models/buffalo_l/b.onnx", "models/aaa/c.onnx", "d.onnx"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert face_models() == [NO_FACE_MODELS, TOY_FACE_MODELS, "buffalo_l", "aaa"]
    assert face_models_folder("buffalo_l") == root / "models" / "buffalo_l"
    sys.modules["insightface"], message = None, ""
    try:
        encode([picture(28, 28)], face_models="buffalo_l")
    except ModuleNotFoundError as error:
        message = str(error)
    finally:
        del sys.modules["insightface"]
    assert "run pip install insightface onnxruntime" in message
