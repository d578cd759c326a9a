"""Settings are checked before anything is loaded, and come back from a manifest."""

import json

import pytest
from story_identity.headless.run_settings import RunSettings, settings_of, toyworld_settings


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"start": 50}, "start is 50, but the schedule has 50 steps"),
        ({"start": -1}, "start is -1"),
        ({"start": 2.5}, "start is 2.5: use a share"),
        ({"guidance": "mine"}, 'guidance is "mine".*own, shared, template'),
        ({"steps": 1001}, "1001 steps"),
        ({"width": 100}, "width is 100.*multiple of 8"),
        ({"portrait_side": 0}, "portrait_side is 0"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"sampler": "heun"}, 'sampler is "heun".*euler'),
        ({"scheduler": "exponential"}, 'scheduler is "exponential".*normal'),
        ({"dtype": "float8"}, 'dtype is "float8"'),
        ({"on_missing": "retry"}, 'on_missing is "retry"'),
        ({"detector": "eyes"}, 'detector is "eyes"'),
        ({"detector": "grounded-sam", "sam": "."}, "needs grounding_dino and bert"),
        ({"box_threshold": 1.5}, "box_threshold is 1.5"),
        ({"portrait_template": "a photo"}, "{character}"),
        ({"portraits": 16, "rank": 10}, "rank 10 is too large for 16 portraits.*at most 4"),
        ({"keep_ratio": 0.0}, "keep_ratio is 0.0"),
        ({"rank": 0}, "rank 0"),
    ],
)
def test_what_is_out_of_range_is_refused_with_its_name_and_value(changes, said):
    with pytest.raises(ValueError, match=said):
        toyworld_settings(**changes)


@pytest.mark.parametrize("name", ["checkpoint", "photomaker", "masks", "config"])
def test_a_missing_file_is_named(name):
    with pytest.raises(FileNotFoundError, match=f"{name}.*nowhere"):
        toyworld_settings(**{name: "nowhere"})


@pytest.mark.parametrize(
    ("name", "path", "kind"),
    [("photomaker", ".", "file"), ("config", __file__, "folder"), ("masks", __file__, "folder")],
)
def test_a_folder_in_the_place_of_a_file_and_the_reverse_are_named(name, path, kind):
    with pytest.raises(ValueError, match=f'{name}: "{path}" is not a {kind}'):
        toyworld_settings(**{name: path})


def test_missing_pairs_are_named():
    with pytest.raises(FileNotFoundError, match="LoRA.*nowhere"):
        toyworld_settings(loras=(("nowhere", 1.0),))
    with pytest.raises(FileNotFoundError, match="identity.*nowhere"):
        toyworld_settings(identities=(("Mira", "nowhere"),))


def test_the_papers_settings_are_the_defaults():
    settings = RunSettings("toyworld", "toyworld")
    found = (settings.portraits, settings.rank, settings.keep_ratio, settings.rounds, settings.steps, settings.start)
    assert found == (64, 10, 0.6, 3, 50, 10)


def test_no_rounds_need_no_rank():
    assert toyworld_settings(portraits=1, rounds=0).portraits == 1


def test_settings_come_back_from_a_manifest(tmp_path):
    path = tmp_path / "style.safetensors"
    path.write_bytes(b"weights")
    settings = toyworld_settings(loras=((str(path), 0.5),), seed=3, portrait_negative="grey")
    manifest = json.loads(json.dumps({"settings": settings.record(), "places": settings.places()}))
    assert settings_of(manifest) == settings
    assert settings_of(manifest, start=4).start == 4


def test_a_record_follows_the_content_of_files_not_where_they_lie(tmp_path):
    records = []
    for folder, content in (("one", b"a"), ("two", b"a"), ("three", b"b")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "style.safetensors"
        path.write_bytes(content)
        records.append(toyworld_settings(loras=((str(path), 0.5),)).record())
    assert records[0] == records[1]
    assert records[0] != records[2]
    assert str(tmp_path) not in json.dumps(records)


def test_toy_weights_count_where_they_are_read(tmp_path):
    for name in ("unet", "vae", "text_encoder", "photomaker", "detector"):
        (tmp_path / f"{name}.safetensors").write_text("one")
    (tmp_path / "tokenizer").mkdir()
    settings = toyworld_settings(checkpoint=str(tmp_path))
    before = settings.record()
    (tmp_path / "card.json").write_text("another training")
    assert settings.record() == before
    for name, setting in (("vae", "checkpoint"), ("photomaker", "photomaker"), ("detector", "detector")):
        (tmp_path / f"{name}.safetensors").write_text("two")
        after = settings.record()
        assert {key for key in after if after[key] != before[key]} == {setting}
        before = after


def test_what_a_frame_does_not_depend_on_is_not_recorded():
    assert toyworld_settings(on_missing="skip").record() == toyworld_settings().record()
