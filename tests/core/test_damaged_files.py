"""Files of weights and identities damaged in some 1,800 ways, the same in every run: each loads, or is refused by name.

Whatever is wrong, the error is a ValueError or a FileNotFoundError in one short line that names the file.
"""

import io
import json
import random
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save
from story_identity.core.adapter_file import read_adapter
from story_identity.core.detectors.files import read_state_dict
from story_identity.core.detectors.grounding_dino_keys import architecture_of as grounding_dino_of
from story_identity.core.detectors.sam_keys import architecture_of as sam_of
from story_identity.core.identity import Identity
from story_identity.core.lora_file import check_lora
from story_identity.core.photomaker import encoder_shapes, split_file
from story_identity.core.state_dict import read_tensors, sizes_from
from story_identity.core.toyworld.identity_encoder import IdentityEncoder, load_identity_encoder
from story_identity.core.toyworld.models import store, unet_weights
from story_identity.core.toyworld.shapes import unet_shapes
from story_identity.core.toyworld.sizes import TOY_WORLD
from story_identity.core.toyworld.vae import ToyVAE, load_vae
from story_identity.headless.checkpoint import load_checkpoint

from tests.stand_ins import detectors
from tests.stand_ins.ip_adapters import flat, nested
from tests.stand_ins.weights import random_weights

LEAST = 95  # cases of each kind of file
LAYERS = {f"mid_block.transformer_blocks.{block}.attn{kind}.to_q": (6, 6) for block in (0, 1) for kind in (1, 2)}


# --- what is damaged: a small file of each kind, and what reads it


def photomaker(version=1):
    sizes = {
        "vision_model.embeddings.patch_embedding.weight": (8, 3, 2, 2),
        "vision_model.embeddings.position_embedding.weight": (5, 8),
        "vision_model.encoder.layers.0.mlp.fc1.weight": (6, 8),
        "visual_projection.weight": (3, 8),
        "visual_projection_2.weight": (4, 8),
    }
    if version == 2:
        root = "qformer_perceiver"
        sizes |= {f"{root}.token_proj.0.weight": (5, 6), f"{root}.token_proj.2.weight": (14, 5)}
        sizes |= {f"{root}.token_norm.weight": (7,), f"{root}.perceiver_resampler.proj_in.weight": (7, 8)}
        sizes |= {f"{root}.perceiver_resampler.layers.0.0.to_q.weight": (128, 7)}
    shapes = encoder_shapes({key: torch.empty(shape) for key, shape in sizes.items()}, "")
    lora = {}
    for layer, (width_out, width_in) in LAYERS.items():
        lora |= {f"unet.{layer}.lora_A.weight": (2, width_in), f"unet.{layer}.lora_B.weight": (width_out, 2)}
    return {"id_encoder": random_weights(shapes, 0), "lora_weights": random_weights(lora, 1)}


def read_photomaker(path):
    _, lora = split_file(read_tensors(path, "a PhotoMaker file"), str(path))
    check_lora(lora, LAYERS, str(path))


def read_detector(path, model, architecture_of):
    with sizes_from(str(path), model):
        architecture_of(read_state_dict(path, model), str(path))


def in_folder(load):
    return lambda path: load(path.parent)


def identity():
    made = Identity("Zoë", "a woman", "toy-world-1", torch.arange(1.0, 9.0), {"discovery": {"rank": 3, "rounds": []}})
    header = {
        "format": "story-identity/1",
        "pack_version": "0.1.0",
        "name": made.name,
        "description": "",
        "encoder": "e",
    }
    return save({"embedding": made.embedding}, metadata={**header, "metadata": json.dumps(dict(made.metadata))})


def pickled(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


torch.manual_seed(0)
UNET_WEIGHTS = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in unet_shapes(TOY_WORLD.unet).items()}
ADAPTER = nested("FaceID", lora=True)
SAM, DINO = detectors.sam_weights(0), detectors.grounding_dino_weights(0)
KINDS = {
    "identity": ("Zoe.safetensors", identity(), Identity.load),
    "photomaker, safetensors": (
        "photomaker.safetensors",
        save({f"{part}.{key}": value for part, held in photomaker().items() for key, value in held.items()}),
        read_photomaker,
    ),
    "photomaker v2": ("photomaker-v2.bin", pickled(photomaker(2)), read_photomaker),
    "photomaker, pickle": ("photomaker.bin", pickled(photomaker()), read_photomaker),
    "adapter, safetensors": ("faceid.safetensors", save(flat(ADAPTER)), read_adapter),
    "adapter, pickle": ("faceid.bin", pickled(ADAPTER), read_adapter),
    "SAM": ("sam.pth", pickled(SAM), lambda path: read_detector(path, "SAM", sam_of)),
    "GroundingDINO": (
        "dino.safetensors",
        save({key: value.clone() for key, value in DINO.items()}),
        lambda path: read_detector(path, "GroundingDINO", grounding_dino_of),
    ),
    "toy VAE": ("vae.safetensors", save(store(ToyVAE().state_dict())), in_folder(load_vae)),
    "toy UNet": ("unet.safetensors", save(UNET_WEIGHTS), in_folder(unet_weights)),
    "toy identity encoder": (
        "identity_encoder.safetensors",
        save(store(IdentityEncoder().state_dict())),
        in_folder(load_identity_encoder),
    ),
    "checkpoint": ("model.safetensors", save(flat(ADAPTER)), lambda path: load_checkpoint(str(path))),
    "checkpoint, pickle": ("model.ckpt", pickled({"state_dict": SAM}), lambda path: load_checkpoint(str(path))),
}


# --- ways to damage it


def cut(content, chance):
    for share in range(0, 100, 5):
        yield content[: len(content) * share // 100]


def noise(content, chance):
    """Single bytes, stretches of zeros, swapped halves, something before or after."""
    for _ in range(20):
        changed = bytearray(content)
        for _ in range(chance.choice((1, 3, 30))):
            changed[min(int(chance.expovariate(1 / 400)), len(changed) - 1)] = chance.randrange(256)
        yield bytes(changed)
    middle = chance.randrange(len(content))
    yield from (content[middle:] + content[:middle], b"\0" * 16 + content, content + bytes(99), content * 2)
    yield from (bytes(5000), chance.randbytes(3000), b"\xff" * 64, content[:64] + bytes(len(content) - 64))


def foreign(content, chance):
    return [
        b"",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 934\n",
        b"<html><body>404</body></html>",
        b'{"error": "not found"}',
        b"GGUF\x03\0\0\0",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        zipped({"readme.txt": b"hello"}),
        zipped({"archive/data.pkl": b"\x80\x02.", "archive/version": b"3\n"}),
        pickled([1, 2]),
        save({"a": torch.ones(1)}),
        b"\x80\x02" + b"]" * 100_000 + b".",
        b"\x80\x04" + b"(" * 50_000,
    ]


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def header_of(content):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])


def with_header(content, header):
    """A safetensors file with another header: an object, or bytes."""
    (length,) = struct.unpack("<Q", content[:8])
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def headers(content, chance):
    """Lengths, dtypes, shapes, offsets and names in the header of a safetensors file."""
    (length,), header = struct.unpack("<Q", content[:8]), header_of(content)
    names = [name for name in header if name != "__metadata__"]
    for each in (0, 1, 8, length - 1, length + 1, length * 2, len(content), 2**31, 2**63, 2**64 - 1):
        yield struct.pack("<Q", each) + content[8:]
    changes = {
        "dtype": ("F64", "F16", "BF16", "I32", "I16", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", None, 3, "X" * 5000),
        "shape": ([], [0], [1], [-1], [2**40], [2**63], [2**64], [1.5], ["3"], None, {}, [0] * 3, [1] * 70),
        "data_offsets": ([0, 0], [0, 1], [5, 3], [-4, 8], [0, 2**40], [0, 2**64], [0], [], None, "0", [1.5, 2]),
    }
    for field, values in changes.items():
        for value in values:
            name = chance.choice(names)
            yield with_header(content, {**header, name: {**header[name], field: value}})
    for new in ("", "x", "\u202e", "a\nb\x1b[31m", "🦊", "x" * 20_000, "../../x", "model.y", "__metadata__"):
        name = chance.choice(names)
        rest = {key: value for key, value in header.items() if key != name}
        yield with_header(content, {**rest, new: header[name]})
    for _ in range(6):
        lost = chance.sample(names, max(1, len(names) // 3))
        yield with_header(content, {key: value for key, value in header.items() if key not in lost})
    for whole in (b"{}", b"[]", b"null", b"{", b"[" * 100_000, b'{"a":' * 100_000, b'{"a":"\\ud83e"}', b'{"\xff":1}'):
        yield with_header(content, whole)


def metadata(content, chance):
    """What an identity says of itself."""
    header = header_of(content)
    told = header["__metadata__"]
    odd = ["", " ", "🦊", "x" * 100_000, "\u202e", "a\x1b[31m\nb", "{", "[]", "null", "3", None, 3, ["x"], {}]
    odd += ['{"a": "\\ud83e"}', '{"\\udc00": 1}', f'{{"a": {"9" * 5000}}}', '{"a": NaN}']
    odd += ["{" * 50_000, '{"a":' * 20_000, "[" * 100_000 + "]" * 100_000]
    for field in told:
        for text in odd:
            yield with_header(content, {**header, "__metadata__": {**told, field: text}})
        rest = {key: value for key, value in told.items() if key != field}
        yield with_header(content, {**header, "__metadata__": rest})
    for value in (None, 3, [], "x"):
        yield with_header(content, {**header, "__metadata__": value})


def contents(content, chance):
    """Other things than tensors in a pickle, and tensors of other kinds, each under a name that is looked for."""
    whole = torch.load(io.BytesIO(content), weights_only=True)
    parts = [value for value in whole.values() if isinstance(value, dict)]
    inner = chance.choice(parts) if parts else whole
    recursive: list = []
    recursive.append(recursive)
    turning: dict = dict(whole)
    turning["state_dict"] = turning["model"] = turning
    odd = [None, 3, "x", [1], {}, (), recursive, turning, torch.Size([3]), True, 1.5, b"x", {"a": {"b": {}}}]
    odd += [
        torch.zeros(()), torch.zeros(0), torch.zeros(3), torch.zeros(2, 0), torch.zeros(1).expand(2**20, 2**20),
        torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.complex64),
        torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.zeros(3).to(torch.float8_e4m3fn),
        torch.nn.Parameter(torch.zeros(3)),
    ]  # fmt: skip
    for each in (*odd, [whole], {"model": whole}, {"state_dict": whole}, {"model": [whole]}):
        yield pickled(each)
    for each in odd:
        changed = {**inner, chance.choice(sorted(inner)): each}
        yield pickled(changed if inner is whole else {k: changed if v is inner else v for k, v in whole.items()})
    for key in (3, None, ("a",), "", "a\nb\x1b[31m", "🦊\u202e", "x" * 20_000, b"x", 1.5):
        yield pickled({**whole, key: torch.zeros(1)})


def cases_of(kind):
    name, content, _ = KINDS[kind]
    chance = random.Random(kind)
    ways = [cut, noise, foreign, headers if name.endswith(".safetensors") else contents]
    ways += [metadata] if kind == "identity" else []
    for way in ways:
        yield from way(content, chance)


def refusal(load, path):
    """What is said of the file; None if it loads. Any other error goes through."""
    try:
        load(path)
    except UnicodeError as error:  # a ValueError of which nobody has thought
        raise AssertionError from error
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch warns of odd tensors before it refuses them
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_loads_or_is_refused_by_name(kind, tmp_path):
    name, content, load = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(content)
    assert kind.startswith("checkpoint") or refusal(load, path) is None
    number, refused = 0, 0
    for number, case in enumerate(cases_of(kind), start=1):  # noqa: B007 - counted afterwards
        path.write_bytes(case)
        text = refusal(load, path)
        if text is not None:
            refused += 1
            assert name in text, (number, text[:500])
            assert text.isprintable(), (number, text[:500])
            assert len(text) < 1500, (number, text[:500])
            assert "weights_only" not in text, (number, text[:500])
    assert number >= LEAST
    assert refused > number // 2


def test_the_cases_are_the_same_in_every_run():
    assert len(KINDS) * LEAST > 900
    for kind in ("identity", "adapter, pickle"):
        assert all(one == other for one, other in zip(cases_of(kind), cases_of(kind), strict=True))
