"""What is kept of ComfyUI's description of the nodes: nothing of the machine, both ways to write choices."""

import json
import re

import pytest
import typer
from story_identity.lab.workflows.__main__ import generated
from story_identity.lab.workflows.schemas import STOCK, as_text, main, read_schemas, trim

SYSTEM = {"comfyui_version": "0.31.0", "required_frontend_version": "1.2.3", "python_version": "3.12"}


def node(required, optional=None, outputs=(("MODEL", False, None),)):
    kinds, lists, tips = zip(*outputs, strict=True)
    return {
        **{"display_name": "Name", "category": "a/b", "description": "What.", "is_input_list": False},
        **{"input": {"required": required, "optional": optional or {}, "hidden": {"unique_id": ["UNIQUE_ID"]}}},
        **{"output": list(kinds), "output_name": list(kinds), "output_is_list": list(lists), "output_tooltips": tips},
    }


def trimmed(required, optional=None, outputs=(("MODEL", False, None),)):
    """One of our nodes as the file has it."""
    info = {name: node({}) for name in STOCK} | {"StoryIdentityOne": node(required, optional, outputs)}
    return trim(info, SYSTEM)["nodes"]["StoryIdentityOne"]


def test_files_of_the_machine_are_left_out():
    inputs = trimmed({"ckpt_name": [["mine.safetensors"], {"tooltip": "A file."}]})["inputs"]
    assert inputs == [{"name": "ckpt_name", "type": "COMBO", "tooltip": "A file."}]


def test_our_own_choices_are_kept_in_either_way_to_write_them():
    new = trimmed({"mode": ["COMBO", {"options": ["a", "b"], "default": "b", "multiselect": False, "tooltip": "T."}]})
    old = trimmed({"mode": [["a", "b"], {"default": "b", "tooltip": "T."}]})
    expected = {"name": "mode", "type": "COMBO", "default": "b", "options": ["a", "b"], "tooltip": "T."}
    assert new["inputs"] == old["inputs"] == [expected]


def test_a_default_that_is_false_stays_and_a_setting_that_is_false_goes():
    given = {"default": False, "advanced": False, "tooltip": "T."}
    assert trimmed({"on": ["BOOLEAN", given]})["inputs"] == [
        {"name": "on", "type": "BOOLEAN", "default": False, "tooltip": "T."}
    ]


def test_optional_inputs_come_last_and_hidden_ones_are_left_out():
    inputs = trimmed({"model": ["MODEL", {}]}, {"vae": ["VAE"]})["inputs"]
    assert [(each["name"], each.get("optional", False)) for each in inputs] == [("model", False), ("vae", True)]


def test_an_input_that_grows_is_one_entry():
    template = {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 1, "max": 50}
    (grown,) = trimmed({"images": ["COMFY_AUTOGROW_V3", {"template": template}]})["inputs"]
    assert (grown["type"], grown["grows"]) == ("IMAGE", {"prefix": "image", "min": 1, "max": 50})


def test_lists_and_tooltips_of_outputs_are_kept():
    outputs = trimmed({}, outputs=[("INT", True, "How many."), ("MASK", False, None)])["outputs"]
    assert outputs == [
        {"name": "INT", "type": "INT", "list": True, "tooltip": "How many."},
        {"name": "MASK", "type": "MASK", "tooltip": ""},
    ]


def test_of_stock_nodes_only_the_form_is_kept():
    info = {name: node({"a": ["INT", {"default": 1, "tooltip": "T."}]}) for name in STOCK}
    stock = trim(info | {"StoryIdentityOne": node({})}, SYSTEM)["nodes"]["KSampler"]
    assert stock == {
        "inputs": [{"name": "a", "type": "INT", "default": 1}],
        "outputs": [{"name": "MODEL", "type": "MODEL"}],
    }


@pytest.mark.parametrize("missing", ["KSampler", "StoryIdentityOne"])
def test_a_comfyui_without_the_nodes_is_an_error(missing):
    info = {name: node({}) for name in (*STOCK, "StoryIdentityOne") if name != missing}
    with pytest.raises(ValueError, match=f"lacks the nodes {missing[:13]}"):
        trim(info, SYSTEM)


def test_the_order_of_comfyuis_answer_makes_no_difference():
    info = {name: node({}) for name in (*STOCK, "StoryIdentityTwo", "StoryIdentityOne")}
    assert as_text(trim(info, SYSTEM)) == as_text(trim(dict(reversed(info.items())), SYSTEM))


def test_the_stored_file_names_no_file_and_no_machine():
    stored = read_schemas()
    assert stored.keys() == {"comfyui", "editor", "nodes"}
    options = [
        option for each in stored["nodes"].values() for one in each["inputs"] for option in one.get("options", [])
    ]
    assert options
    assert not [option for option in options if re.search(r"\.\w{2,}$|[/\\]", option)]


def test_the_stock_nodes_are_those_that_the_workflows_use():
    parts = []
    for text in (text for path, text in generated().items() if path.suffix == ".json" and path.parent.name != "docs"):
        made = json.loads(text)
        parts += [made, *made.get("definitions", {}).get("subgraphs", [])]
    own = {part["id"] for part in parts}  # the node that stands for a subgraph is of that type
    used = {node["type"] for part in parts for node in part["nodes"]} - own
    assert {name for name in used if not name.startswith("StoryIdentity")} == {*STOCK, "MarkdownNote"}


def test_without_a_comfyui_the_command_says_what_to_do(capsys):
    with pytest.raises(typer.Exit):
        main("http://127.0.0.1:9")
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9: " in said
    assert "Start a ComfyUI that has this pack" in said
