"""A node of a workflow is checked against its description."""

import pytest
from story_identity.lab.workflows.graph import Group, graph, node

LOADER = node("loader", "CheckpointLoaderSimple")


def inputs_of(kind, links):
    made = graph("test", [], [[Group("", "", [[*links.values(), node("end", kind, " ".join(links))]])]])
    return next(each for each in made["nodes"] if each["type"].endswith(kind))["inputs"]


def test_values_are_presets_over_defaults_and_given_ones_over_both():
    made = node("sampler", "KSampler", steps=12)
    assert made.widgets["denoise"] == 1.0
    assert made.widgets["cfg"] == 7.0
    assert made.widgets["steps"] == 12


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("KSampler", {"step": 1}, "sampler: KSampler has no widget step"),
        ("KSampler", {"steps": 0}, "steps is 1 to 10000, not 0"),
        ("KSampler", {"steps": "12"}, "steps takes INT, not '12'"),
        ("KSampler", {"cfg": 7}, "cfg takes FLOAT, not 7"),
        ("AMSA", {"layers": "some"}, "layers is one of all, without the largest, smallest two, not 'some'"),
        ("AMSA", {"same_character": 1}, "same_character takes BOOLEAN, not 1"),
        ("ExamplePicture", {}, "sampler: ExamplePicture needs a value for picture"),
        ("KSamplerAdvanced", {}, "node_schemas.json has no node KSamplerAdvanced"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error(kind, values, said):
    with pytest.raises(ValueError, match=said):
        node("sampler", kind, **values)


def test_an_input_that_grows_shows_one_more_socket_than_is_tied():
    drawn = node("drawn", "VAEDecode")
    pictures = {f"images.image{n}=picture{n}.IMAGE": drawn._replace(key=f"picture{n}") for n in (0, 1)}
    shown = inputs_of("BatchImagesNode", pictures)
    assert [(each["name"], each["label"], each.get("shape")) for each in shown] == [
        ("images.image0", "image0", None),
        ("images.image1", "image1", 7),
        ("images.image2", "image2", 7),
    ]


def test_a_link_to_another_type_is_an_error():
    with pytest.raises(ValueError, match="end: model takes MODEL, loader.VAE gives VAE"):
        inputs_of("FreeU", {"model=loader.VAE": LOADER})
