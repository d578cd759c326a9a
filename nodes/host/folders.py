"""The folders of ComfyUI in which the pack's files are."""

import hashlib
from pathlib import Path

import folder_paths

from ...core.quoting import printable, quote
from ...core.weights import by_name

KINDS = {
    "grounding-dino": {".pth", ".pt", ".safetensors"},
    "sams": {".pth", ".pt", ".safetensors"},
    "bert-base-uncased": {".json", ".txt"},
    "identities": {".safetensors"},
    "ipadapter": {".safetensors", ".bin"},
    "insightface": {".onnx"},
    "face_recognition": {".onnx"},
    "fonts": {".ttf", ".otf", ".ttc"},
    "image_text": {".json", ".txt", ".safetensors", ".bin"},
}
"""Folders under `models/` that ComfyUI does not know by itself, and the endings of the files in them."""

TOKENIZER = "bert-base-uncased"

NO_FACE_MODELS = "none"
"""The choice of Face Features that does without a face recogniser."""

TOY_FACE_MODELS = "toy world"
"""The choice of Face Features that comes with the pack."""

ANY_FONT = "automatic"
"""The choice of Story Page that looks for a font which has all letters."""

TYPED_IN = "(typed in below)"
"""The choice of the Story node that reads its text fields in place of a file."""


def register_folders() -> None:
    """Add our folders to those the host searches; paths another pack or extra_model_paths.yaml gave stay."""
    for kind, extensions in KINDS.items():
        given, known = folder_paths.folder_names_and_paths.get(kind, ([], set()))
        paths = list(given)
        default = str(Path(folder_paths.models_dir) / kind)
        if default not in paths:
            paths.append(default)
        folder_paths.folder_names_and_paths[kind] = (paths, extensions | set(known))


def names(kind: str, preferred: str = "") -> list[str]:
    """The files of a kind that are there, for a dropdown; the one that the workflows use comes first."""
    return sorted(folder_paths.get_filename_list(kind), key=lambda name: name != preferred)


def check_present(kind: str, name: str | None) -> bool | str:
    """True, or one sentence that says which file is missing, where it goes and where to get it.

    A name of None comes through a link; it is checked when it arrives.
    """
    if name is None or folder_paths.get_full_path(kind, name) is not None:
        return True
    folders = folder_paths.get_folder_paths(kind)
    weight = by_name(kind, name)
    if weight is not None:
        return weight.describe_missing(Path(folders[0]))
    name, folder = quote(name), folders[0]
    if kind == "identities":
        return f"{name} is not in {folder}. Save an identity with Save Identity, press R, and choose it here."
    return f"{name} is not in {folder}. Put the file there and press R, or choose another."


def full_path(kind: str, name: str) -> Path:
    """The file's path; FileNotFoundError with the same sentence if it is missing."""
    present = check_present(kind, name)
    if present is not True:
        raise FileNotFoundError(present)
    return Path(folder_paths.get_full_path_or_raise(kind, name))


def check_tokenizer() -> bool | str:
    """True if Grounding DINO's tokenizer is there, or one sentence on how to get it."""
    if any(folder_paths.get_full_path(TOKENIZER, name) for name in ("vocab.txt", "tokenizer.json")):
        return True
    return check_present(TOKENIZER, "vocab.txt")


def tokenizer_folder() -> Path:
    """The folder that has Grounding DINO's tokenizer; FileNotFoundError with the same sentence if none has."""
    present = check_tokenizer()
    if present is not True:
        raise FileNotFoundError(present)
    found = (folder_paths.get_full_path(TOKENIZER, name) for name in ("vocab.txt", "tokenizer.json"))
    return Path(next(path for path in found if path is not None)).parent


def face_models() -> list[str]:
    """The toy world's, and the folders of models/insightface/models with .onnx files, FaceID's buffalo_l first."""
    folders = {Path(name).parent for name in folder_paths.get_filename_list("insightface") if name.endswith(".onnx")}
    found = {folder.name for folder in folders if folder.parent == Path("models")}
    return [NO_FACE_MODELS, TOY_FACE_MODELS, *sorted(found, key=lambda name: (name != "buffalo_l", name))]


def check_face_models(name: str | None) -> bool | str:
    """True, or one sentence that says where insightface's models belong. None comes through a link."""
    if name is None or name in face_models():
        return True
    folder = Path(folder_paths.get_folder_paths("insightface")[0]) / "models" / printable(name, 120)
    return (
        f"The face models {quote(name)} are not there: put insightface's .onnx files right into {folder} and press R. "
        "They are for non-commercial research only and are never downloaded by this pack."
    )


def face_models_folder(name: str) -> Path:
    """The folder of the .onnx files; FileNotFoundError with the same sentence if it is missing."""
    present = check_face_models(name)
    if present is not True:
        raise FileNotFoundError(present)
    inside = Path("models") / name
    found = (each for each in folder_paths.get_filename_list("insightface") if Path(each).parent == inside)
    return Path(folder_paths.get_full_path_or_raise("insightface", next(found))).parent


def files_in(kind: str) -> list[Path]:
    """All files that ComfyUI lists of a folder of models."""
    paths = (folder_paths.get_full_path(kind, name) for name in folder_paths.get_filename_list(kind))
    return [Path(path) for path in paths if path is not None]


def fonts() -> list[str]:
    """The automatic choice, and the files of models/fonts."""
    return [ANY_FONT, *sorted(folder_paths.get_filename_list("fonts"))]


def caption_encoders() -> list[str]:
    """The folders of models/image_text that hold a config.json."""
    files = map(Path, folder_paths.get_filename_list("image_text"))
    return sorted(file.parent.as_posix() for file in files if file.name == "config.json")


def check_caption_encoder(name: str | None) -> bool | str:
    """True, or one sentence that says where a caption encoder belongs. None comes through a link."""
    if name is None or name in caption_encoders():
        return True
    folder = folder_paths.get_folder_paths("image_text")[0]
    return (
        f"The caption encoder {quote(name)} is not there: put CLIP, as transformers keeps it (config.json, "
        f"model.safetensors, preprocessor_config.json, tokenizer files), into a folder of {folder} and press R."
    )


def caption_encoder_folder(name: str) -> Path:
    """The folder of a caption encoder; FileNotFoundError with the same sentence if it is missing."""
    present = check_caption_encoder(name)
    if present is not True:
        raise FileNotFoundError(present)
    return Path(folder_paths.get_full_path_or_raise("image_text", f"{name}/config.json")).parent


def story_files() -> list[str]:
    """JSON files in ComfyUI's input folder."""
    folder = Path(folder_paths.get_input_directory())
    return [TYPED_IN, *sorted(path.name for path in folder.glob("*.json"))]


def story_path(name: str) -> Path:
    """A file of the input folder; refuses names that lead out of it, and what no file can be called."""
    folder = Path(folder_paths.get_input_directory()).resolve()
    possible = printable(name, 255) == name and len(name.encode()) <= 255
    path = (folder / name).resolve() if possible else folder
    if path.parent != folder:
        raise ValueError(f"The story file {quote(name)} is not in the input folder.")
    return path


def picture_path(name: str, whose: str) -> Path:
    """A reference picture in the input folder.

    Raises:
        ValueError: If the name leads out of that folder, or is none.
        FileNotFoundError: If there is no such file; the message names the character.
    """
    folder = Path(folder_paths.get_input_directory()).resolve()
    possible = printable(name, 255) == name and len(name.encode()) <= 255
    path = (folder / name).resolve() if possible else folder
    if path == folder or not path.is_relative_to(folder):
        raise ValueError(f"Character {quote(whose, 60)}: the picture {quote(name)} is not in ComfyUI's input folder.")
    if not path.is_file():
        raise FileNotFoundError(
            f"Character {quote(whose, 60)}: there is no picture {quote(name)} in {printable(str(folder), 200)}. Put it "
            "there, or correct its name."
        )
    return path


def picture_digest(path: Path) -> str:
    """A digest of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def identity_path(filename: str, overwrite: bool) -> Path:
    """Where to save an identity; numbered rather than overwritten unless asked."""
    folder = Path(folder_paths.get_folder_paths("identities")[0])
    path = folder / f"{filename}.safetensors"
    number = 2
    while path.exists() and not overwrite:
        path = folder / f"{filename}_{number}.safetensors"
        number += 1
    return path
