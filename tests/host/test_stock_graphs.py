"""The stand-ins are good enough for ComfyUI's own nodes: the ground the tests of this pack's nodes stand on."""

import numpy as np
import pytest
from PIL import Image

from .server import Host, RunError

SDXL = "sd_xl_base_1.0.safetensors"
OPENPOSE = "controlnet-openpose-sdxl-1.0.safetensors"


def text_to_image(name: str, text: str = "a cat", **sampler: object) -> dict:
    widgets = {"seed": 1, "steps": 3, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": SDXL}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": text}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "blurry"}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 96, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": widgets | links | sampler},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": name}},
    }


def picture(host: Host, graph: dict) -> np.ndarray:
    (file,) = host.files(host.run(graph)["7"])
    with Image.open(file.path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def test_the_checkpoint_makes_a_picture_that_follows_text_and_seed(host):
    first = picture(host, text_to_image("first"))
    assert first.shape == (96, 128, 3)
    assert first.std() > 0.05
    assert np.array_equal(picture(host, text_to_image("again")), first)
    assert np.abs(picture(host, text_to_image("text", "a very old dog")) - first).mean() > 0.005
    assert np.abs(picture(host, text_to_image("seed", seed=2)) - first).mean() > 0.02


def test_the_checkpoint_loads_completely_as_sdxl(host):
    host.run(text_to_image("loads"))
    log = host.log()
    assert "model_type EPS" in log
    assert "clip missing" not in log
    assert "unet missing" not in log
    assert "left over" not in log
    assert "Missing VAE keys" not in log


def test_the_controlnet_changes_the_picture(host):
    graph = text_to_image("plain")
    plain = picture(host, graph)
    graph |= {
        "8": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": OPENPOSE}},
        "9": {"class_type": "LoadImage", "inputs": {"image": "pose.png"}},
        "10": {
            "class_type": "ControlNetApplyAdvanced",
            "inputs": {
                **{"positive": ["2", 0], "negative": ["3", 0], "control_net": ["8", 0], "image": ["9", 0]},
                **{"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
            },
        },
    }
    graph["5"]["inputs"] |= {"positive": ["10", 0], "negative": ["10", 1]}
    graph["7"]["inputs"]["filename_prefix"] = "posed"
    posed = picture(host, graph)
    assert np.abs(posed - plain).mean() > 0.005
    assert "missing controlnet keys" not in host.log()
    assert "could not detect control" not in host.log()


def test_a_picture_survives_the_autoencoder_as_a_finite_one(host):
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": SDXL}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "two_people.png"}},
        "3": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["1", 2]}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
        "7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "round"}},
    }
    assert picture(host, graph).shape == (192, 256, 3)


def test_a_refused_prompt_names_the_node_and_the_input(host):
    graph = text_to_image("refused", sampler_name="no such sampler")
    with pytest.raises(RunError, match=r"node 5 \(KSampler\).*sampler_name"):
        host.run(graph)


def test_a_node_that_raises_gives_its_exception_and_traceback(host):
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "../../elsewhere"}},
    }
    with pytest.raises(RunError, match=r"(?s)node 2 \(SaveImage\): .*outside the output folder.*File "):
        host.run(graph)
