"""The conversion of workflows, on nodes described by hand; only the last test asks a real host."""

import copy

import pytest

from .api_form import to_api

INFO = {
    "Load": {
        "input": {"required": {"name": [["a.safetensors"], {}], "file": ["COMBO", {"options": ["x"]}]}},
        "output": ["MODEL", "VAE"],
    },
    "Picture": {"input": {"required": {"image": [["p.png"], {"image_upload": True}]}}, "output": ["IMAGE", "MASK"]},
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"control_after_generate": True}],
                "steps": ["INT", {}],
                "text": ["STRING", {"forceInput": True}],
            },
            "optional": {"image": ["IMAGE", {}], "denoise": ["FLOAT", {}]},
        },
        "output": ["LATENT"],
    },
    "Change": {"input": {"required": {"model": ["MODEL"], "by": ["FLOAT", {}]}}, "output": ["MODEL"]},
    "Number": {"input": {"required": {"value": ["INT", {}]}}, "output": ["INT"]},
    "Batch": {
        "input": {
            "required": {
                "all": [
                    "COMFY_AUTOGROW_V3",
                    {"template": {"input": {"required": {"one": ["IMAGE", {}]}}, "prefix": "one", "min": 1, "max": 3}},
                ]
            }
        },
        "output": ["IMAGE"],
    },
    "Text": {"input": {"required": {"text": ["STRING", {"multiline": True}]}}, "output": ["STRING"]},
}


def node(node_id, kind, values=(), inputs=(), outputs=(), **more):
    return {
        **{"id": node_id, "type": kind, "mode": 0, "widgets_values": list(values)},
        "inputs": [{"name": name, "type": type_, "link": link} for name, type_, link in inputs],
        "outputs": [{"name": type_, "type": type_, "links": links} for type_, links in outputs],
        **more,
    }


@pytest.fixture
def workflow():
    """Load → Change → Sample, with a text, a note and a picture through a reroute."""
    sample_inputs = [("model", "MODEL", 2), ("text", "STRING", 3), ("image", "IMAGE", 5)]
    return {
        "version": 0.4,
        "nodes": [
            node(1, "Load", ["a.safetensors", "x"], [], [("MODEL", [1]), ("VAE", None)]),
            node(2, "Change", [0.5], [("model", "MODEL", 1)], [("MODEL", [2])]),
            node(3, "Text", ["a fox"], [], [("STRING", [3])]),
            node(4, "Picture", ["p.png", "image"], [], [("IMAGE", [4]), ("MASK", None)]),
            node(5, "Reroute", [], [("", "*", 4)], [("IMAGE", [5])]),
            node(6, "Sample", [7, "randomize", 20, 0.9], sample_inputs, [("LATENT", None)], title="My sampler"),
            node(7, "MarkdownNote", ["how to use"]),
        ],
        "links": [
            [1, 1, 0, 2, 0, "MODEL"],
            [2, 2, 0, 6, 0, "MODEL"],
            [3, 3, 0, 6, 1, "STRING"],
            [4, 4, 0, 5, 0, "IMAGE"],
            [5, 5, 0, 6, 2, "IMAGE"],
        ],
    }


def test_values_get_their_names_and_links_their_origin(workflow):
    before = copy.deepcopy(workflow)
    api = to_api(workflow, INFO)
    assert workflow == before
    assert list(api) == ["1", "2", "3", "4", "6"]
    assert api["1"]["inputs"] == {"name": "a.safetensors", "file": "x"}
    assert api["4"]["inputs"] == {"image": "p.png"}
    assert api["6"] == {
        "inputs": {
            **{"model": ["2", 0], "seed": 7, "steps": 20, "text": ["3", 0]},
            **{"image": ["4", 0], "denoise": 0.9},
        },
        "class_type": "Sample",
        "_meta": {"title": "My sampler"},
    }


def test_an_upload_button_may_be_left_out(workflow):
    workflow["nodes"][3]["widgets_values"] = ["p.png"]
    assert to_api(workflow, INFO)["4"]["inputs"] == {"image": "p.png"}


def test_a_widget_turned_into_an_input_keeps_its_place_among_the_values(workflow):
    number = node(8, "Number", [12], [], [("INT", [6])])
    sample = workflow["nodes"][5]
    sample["inputs"].append({"name": "steps", "type": "INT", "link": 6, "widget": {"name": "steps"}})
    workflow["nodes"].append(number)
    workflow["links"].append([6, 8, 0, 6, 3, "INT"])
    inputs = to_api(workflow, INFO)["6"]["inputs"]
    assert inputs["steps"] == ["8", 0]
    assert inputs["denoise"] == 0.9
    number |= {"type": "PrimitiveNode", "widgets_values": [33, "fixed"]}
    api = to_api(workflow, INFO)
    assert "8" not in api
    assert api["6"]["inputs"]["steps"] == 33


def test_an_input_that_grows_has_one_name_for_each_link(workflow):
    inputs = [(f"all.one{number}", "IMAGE", link) for number, link in enumerate((6, 7, None))]
    workflow["nodes"].append(node(8, "Batch", [], inputs, [("IMAGE", None)]))
    workflow["nodes"][3]["outputs"][0]["links"] += [6, 7]
    workflow["links"] += [[6, 4, 0, 8, 0, "IMAGE"], [7, 4, 0, 8, 1, "IMAGE"]]
    assert to_api(workflow, INFO)["8"]["inputs"] == {"all.one0": ["4", 0], "all.one1": ["4", 0]}
    workflow["nodes"][-1]["inputs"][0]["link"] = None
    workflow["links"].pop(-2)
    with pytest.raises(ValueError, match=r"node 8 \(Batch\): nothing is given for all\.one0"):
        to_api(workflow, INFO)


def test_a_bypassed_node_hands_on_and_a_muted_one_does_not(workflow):
    workflow["nodes"][1]["mode"] = 4
    api = to_api(workflow, INFO)
    assert "2" not in api
    assert api["6"]["inputs"]["model"] == ["1", 0]
    for mode in (2, 4):  # a bypassed loader has nothing to hand on
        workflow["nodes"][3]["mode"] = mode
        assert "image" not in to_api(workflow, INFO)["6"]["inputs"]
    workflow["nodes"][1]["mode"] = 2
    with pytest.raises(ValueError, match=r"node 6 \(My sampler\): nothing is given for model"):
        to_api(workflow, INFO)


def no_such_type(workflow):
    workflow["nodes"][1]["type"] = "Gone"


def a_value_too_many(workflow):
    workflow["nodes"][5]["widgets_values"].append(1)


def a_value_too_few(workflow):
    workflow["nodes"][0]["widgets_values"].pop()


def a_link_from_nowhere(workflow):
    workflow["links"][0][1] = 99


def an_unlisted_link(workflow):
    workflow["links"].pop(2)


def a_link_its_end_does_not_know(workflow):
    workflow["nodes"][5]["inputs"][0]["link"] = 3


def a_link_its_start_does_not_know(workflow):
    workflow["nodes"][0]["outputs"][0]["links"] = []


def an_input_that_is_gone(workflow):
    workflow["nodes"][5]["inputs"][2]["name"] = "picture"


def an_output_that_is_gone(workflow):
    workflow["links"][1][2] = 1
    workflow["nodes"][1]["outputs"].append({"name": "x", "type": "MODEL", "links": [2]})


def a_required_input_left_open(workflow):
    workflow["nodes"][1]["inputs"][0]["link"] = None
    workflow["links"].pop(0)


def reroutes_in_a_circle(workflow):
    workflow["nodes"][4]["inputs"][0]["link"] = 5
    workflow["nodes"][5]["inputs"][2]["link"] = 6
    workflow["nodes"][4]["outputs"][0]["links"] = [5, 6]
    workflow["links"][3:] = [[5, 5, 0, 5, 0, "IMAGE"], [6, 5, 0, 6, 2, "IMAGE"]]


def values_by_name(workflow):
    workflow["nodes"][0]["widgets_values"] = {"name": "a.safetensors", "file": "x"}


def one_id_twice(workflow):
    workflow["nodes"][6]["id"] = 5


def a_muted_subgraph(workflow):
    workflow["definitions"] = {"subgraphs": [{"id": "some-id", "name": "Inner", "nodes": [], "links": []}]}
    workflow["nodes"].append({"id": 90, "type": "some-id", "mode": 2})


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (no_such_type, r"node 2 \(Gone\): ComfyUI has no node"),
        (
            a_value_too_many,
            r"node 6 \(My sampler\): has 5 widget values, .* asks for 4: seed, \(editor only\)",
        ),
        (a_value_too_few, r"node 1 \(Load\): has 1 widget values, but ComfyUI asks for 2: name, file"),
        (a_link_from_nowhere, "link 1 .* node 99"),
        (an_unlisted_link, r"node 6 \(My sampler\): link 3 is not in the list"),
        (a_link_its_end_does_not_know, r"node 6 \(My sampler\): its input 0 does not know link 2"),
        (a_link_its_start_does_not_know, r"node 1 \(Load\): its output 0 does not know link 1"),
        (an_input_that_is_gone, r"node 6 \(My sampler\): has no input 'picture'"),
        (an_output_that_is_gone, r"node 2 \(Change\): ComfyUI gives this node no output 1"),
        (a_required_input_left_open, r"node 2 \(Change\): nothing is given for model"),
        (reroutes_in_a_circle, r"node 5 \(Reroute\): leads back to itself"),
        (values_by_name, r"node 1 \(Load\): its widgets_values are not a list"),
        (one_id_twice, "same id"),
        (a_muted_subgraph, r"node 90 \(Inner\) is muted"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_the_node(workflow, breaks, message):
    breaks(workflow)
    with pytest.raises(ValueError, match=message):
        to_api(workflow, INFO)


def test_a_workflow_of_stock_nodes_runs(host):
    """With a real description of the nodes, and a run of what comes out."""
    workflow = {
        "version": 0.4,
        "nodes": [
            node(1, "LoadImage", ["two_people.png", "image"], [], [("IMAGE", [1]), ("MASK", None)]),
            node(2, "ImageScale", ["bilinear", 96, 64, "center"], [("image", "IMAGE", 1)], [("IMAGE", [2])]),
            node(3, "SaveImage", ["api_form"], [("images", "IMAGE", 2)]),
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]],
    }
    outputs = host.run(to_api(workflow, host.object_info()))
    (file,) = host.files(outputs["3"])
    assert file.path.is_file()
