"""The manifest: the shipped one and malformed ones; finding, describing and verifying files."""

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from story_identity.core import weights
from story_identity.core.weights import WeightError, WeightFile
from story_identity.core.weights_format import TORCH_MAGIC

ROOT = Path(__file__).parents[2]
WORKFLOWS = (
    "identity_from_text.json",
    "identitystory_attention_layout.json",
    "identitystory_controlnet_pose.json",
    "identitystory_flux2_klein.json",
    "identitystory_qwen_edit.json",
    "identitystory_sdxl.json",
    "identitystory_sdxl_8_steps.json",
    "identitystory_sdxl_two_characters.json",
    "identitystory_z_image_to_kontext.json",
    "storynizor_qwen_image.json",
    "storynizor_sd15.json",
    "storynizor_sd15_reference.json",
    "storynizor_sd15_reference_two_characters.json",
    "storynizor_sdxl.json",
    "storynizor_z_image.json",
)
CONTENT = TORCH_MAGIC + (bytes(range(251)) * 4 + b"end")[len(TORCH_MAGIC) :]
ENTRY = {
    "id": "toy",
    "name": "toy.bin",
    "folder": "toys/small",
    "url": "https://example.org/toy.bin",
    "size": len(CONTENT),
    "size_about": None,
    "min_size": None,
    "sha256": hashlib.sha256(CONTENT).hexdigest(),
    "sha256_source": "publisher",
    "licence": "Apache-2.0",
    "licence_note": None,
    "non_commercial": False,
    "used_by": ["a workflow"],
}


UNHASHED = {"sha256": None, "sha256_source": None}


def toy(**changes) -> WeightFile:
    return WeightFile(**(ENTRY | {"used_by": ("a workflow",)} | changes))


# --- the shipped manifest


def test_the_shipped_manifest_is_sound_and_written_the_one_way():
    text = (ROOT / "models.json").read_bytes()
    assert text == (json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n").encode()
    manifest = weights.load_manifest()
    assert len({(weight.folder, weight.name) for weight in manifest.values()}) == len(manifest)
    for key, weight in manifest.items():
        assert key == weight.id
        assert weight.url.startswith("https://")
        assert weight.sha256 is None or len(bytes.fromhex(weight.sha256)) == 32
        assert (weight.sha256 is None) == (weight.sha256_source is None)
        assert not (weight.size and weight.size_about)
        assert (weight.min_size is None) == bool(weight.size or weight.sha256)


def test_every_workflow_has_its_weights_and_only_what_names_kontext_takes_a_non_commercial_one():
    manifest = weights.load_manifest().values()
    used = {user for weight in manifest for user in weight.used_by if user.endswith(".json")}
    assert used == set(WORKFLOWS)
    for weight in manifest:
        used = set(weight.used_by) & set(WORKFLOWS)
        assert not weight.non_commercial or used <= {"identitystory_z_image_to_kontext.json"}, weight.id
        assert not weight.non_commercial or weight.licence_note, weight.id


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_workflow_is_listed_with_every_weight_it_names(workflow: str):
    path = ROOT / "workflows" / workflow
    if not path.exists():
        pytest.skip(f"{workflow} is not there")
    named = [weight for weight in weights.load_manifest().values() if f'"{weight.name}"' in path.read_text("utf-8")]
    assert named
    assert [weight.id for weight in named if workflow not in weight.used_by] == []


# --- reading a manifest


def write_manifest(path: Path, *entries: object) -> Path:
    path.write_text(json.dumps({"files": entries}), encoding="utf-8")
    return path


def test_a_manifest_keeps_every_field(tmp_path: Path):
    weight = weights.load_manifest(write_manifest(tmp_path / "models.json", ENTRY))["toy"]
    assert json.loads(json.dumps(dataclasses.asdict(weight))) == ENTRY


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"url": "http://example.org/toy.bin"}, "url must be https"),
        ({"url": "https://[broken"}, "url must be https"),
        ({"url": "file:///toy.bin"}, "url must be https"),
        ({"sha256": "abc"}, "sha256 must be 64"),
        ({"sha256": "A" * 64}, "sha256 must be 64"),
        ({"sha256": None}, "sha256_source must be"),
        ({"sha256_source": "hearsay"}, "sha256_source must be"),
        ({"name": "../toy.bin"}, "name must be plain"),
        ({"folder": "toys/../../etc"}, "folder must be plain"),
        ({"folder": "/toys"}, "folder must be plain"),
        ({"size": True}, "size must be int or NoneType, not True"),
        ({"size": 0}, "size must be positive"),
        ({"size": "12"}, "size must be int"),
        ({"licence": ""}, "licence must be str"),
        ({"non_commercial": "no"}, "non_commercial must be bool"),
        ({"used_by": []}, "used_by must be a list"),
        ({"used_by": "all"}, "used_by must be list"),
        ({"licens": "MIT"}, 'unknown fields: "licens"'),
        ({"min_size": 0}, "min_size must be positive, not 0"),
        ({"min_size": "2 MB"}, 'min_size must be int or NoneType, not "2 MB"'),
        (UNHASHED | {"name": "toy.tar"}, 'sha256 must be there, since the format of "toy.tar" is none'),
        (UNHASHED | {"size": None}, "without sha256 and size, min_size must be there"),
        ({"id": "toy\x1b[31m" + "x" * 10_000}, r"id must be plain .*not \"toy\\x1b"),
    ],
)
def test_a_malformed_entry_is_named(tmp_path: Path, changes: dict, complaint: str):
    path = write_manifest(tmp_path / "models.json", ENTRY | {"id": "other", "name": "other.bin"}, ENTRY | changes)
    with pytest.raises(ValueError, match=rf"models\.json: files\[1\] \(\"toy.*\"\): {complaint}") as refusal:
        weights.load_manifest(path)
    assert len(str(refusal.value)) < 1500
    assert str(refusal.value).isprintable()


def test_other_malformed_manifests(tmp_path: Path):
    path = tmp_path / "models.json"
    for text, complaint in (
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected an object"),
        ('{"files": [3]}', r"files\[0\]: expected"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=complaint):
            weights.load_manifest(path)
    with pytest.raises(ValueError, match=r'files\[0\] \("toy"\): missing fields: "url"'):
        weights.load_manifest(write_manifest(path, {name: value for name, value in ENTRY.items() if name != "url"}))
    for twin in (ENTRY | {"name": "b.bin"}, ENTRY | {"id": "b"}):
        with pytest.raises(ValueError, match="same id or same folder and name as toy"):
            weights.load_manifest(write_manifest(path, ENTRY, twin))


def test_by_name_takes_what_a_dropdown_shows():
    found = weights.by_name("photomaker", "photomaker-v1.bin")
    assert found is not None
    assert found.id == "photomaker-v1"
    assert weights.by_name("photomaker", "sub\\photomaker-v1.bin") == found
    assert weights.by_name("photomaker", "sub/photomaker-v1.bin") == found
    assert weights.by_name("loras", "photomaker-v1.bin") is None


# --- finding, describing, verifying


def test_find_searches_in_the_order_of_the_folders_and_one_level_down(tmp_path: Path):
    folders = [tmp_path / "absent", tmp_path / "a", tmp_path / "b"]
    deep = tmp_path / "a" / "x" / "y"
    deep.mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (deep / "toy.bin").touch()
    assert weights.find(toy(), folders) is None
    (tmp_path / "b" / "toy.bin").touch()
    assert weights.find(toy(), folders) == tmp_path / "b" / "toy.bin"
    (tmp_path / "a" / "x" / "toy.bin").touch()
    assert weights.find(toy(), folders) == tmp_path / "a" / "x" / "toy.bin"


def test_a_missing_file_is_described_with_all_it_takes_to_get_it(tmp_path: Path):
    text = toy(size=2_564_550_879).describe_missing(tmp_path / "my models" / "toys" / "small")
    for part in (
        "toy.bin",
        str(tmp_path / "my models" / "toys" / "small"),
        ENTRY["url"],
        "2.56 GB",
        "Apache-2.0",
    ):
        assert part in text
    assert text.endswith(f'weights.py download toy --models-dir "{tmp_path / "my models"}"')
    assert "\n" not in text
    elsewhere = toy(size=None, size_about="3 MB", non_commercial=True).describe_missing(tmp_path)
    assert "3 MB, licence: Apache-2.0, not for commercial use" in elsewhere
    assert elsewhere.endswith("download toy --accept-licence")


def test_verify_says_what_it_compared_and_what_differs(tmp_path: Path):
    path = tmp_path / "toy.bin"
    path.write_bytes(CONTENT)
    assert weights.verify(toy(), path) == ("size", "sha256")
    assert weights.verify(toy(size=None), path) == ("sha256",)
    assert weights.verify(toy(**UNHASHED), path) == ("size", "format")
    assert weights.verify(toy(size=None, min_size=len(CONTENT), **UNHASHED), path) == ("least size", "format")
    with pytest.raises(WeightError, match="too small: expected at least 1008 bytes, found 1007"):
        weights.verify(toy(size=None, min_size=len(CONTENT) + 1, **UNHASHED), path)
    path.write_bytes(CONTENT[:-1] + b"!")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightError, match=rf"sha256 differs: expected {ENTRY['sha256']}, found {found}"):
        weights.verify(toy(), path)
    with pytest.raises(WeightError, match=r"third-party hash: mirrors"):
        weights.verify(toy(sha256_source="mirrors"), path)
    path.write_bytes(b"abc")
    with pytest.raises(WeightError, match="size differs: expected 1007 bytes, found 3"):
        weights.verify(toy(), path)
