"""What weights say in the host: `toyworld_sizes_answers.py COMFYUI BASE_DIRECTORY WEIGHTS QUESTIONS ANSWERS`.

Nothing is compared here, since diffusers is not installed beside ComfyUI.
"""

import sys
from pathlib import Path

COMFYUI, BASE_DIRECTORY, WEIGHTS, QUESTIONS, ANSWERS = (Path(argument).absolute() for argument in sys.argv[1:6])
sys.argv[1:] = ["--cpu", "--base-directory", str(BASE_DIRECTORY)]  # for the host, which reads them when imported
sys.path.insert(1, str(COMFYUI))
import setting  # noqa: E402, F401 - prepares the host before anything of it is imported
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from story_identity.nodes.host import toyworld  # noqa: E402

import nodes  # noqa: E402


@torch.inference_mode()
def answers(asked: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model, vae, clip = (load(WEIGHTS) for load in (toyworld.load_model, toyworld.load_vae, toyworld.load_clip))
    text = clip.encode_from_tokens_scheduled(clip.tokenize("a woman with red hair on a beach"))
    said = {
        "prediction": model.model.diffusion_model(asked["latents"], asked["timesteps"], context=asked["context"]),
        "pictures": vae.decode(asked["latents"]),
        "encoded": vae.encode(asked["pictures"]),
        "text": text[0][0],
        "width": torch.tensor([model.get_model_object("latent_format").spacial_downscale_ratio, vae.latent_channels]),
    }
    # At the end, since a sampling leaves the LoRA on the network that both share.
    patched, photomaker = toyworld.load_identity_generator(model, WEIGHTS)
    empty = {"samples": torch.zeros(1, asked["latents"].shape[1], 16, 16)}
    sampled = nodes.common_ksampler(patched, 3, 2, 4.0, "euler", "simple", text, text, empty)[0]["samples"]
    return said | {"sampled": sampled, "encoder": torch.tensor(list(photomaker.encoder_id.encode()))}


if __name__ == "__main__":
    save_file({key: value.clone().contiguous() for key, value in answers(load_file(QUESTIONS)).items()}, ANSWERS)
