"""The tables of the help pages, on nodes described by hand; tests/test_workflows.py compares the real pages."""

import pytest
from story_identity.lab.workflows.pages import filled_pages, inputs_table, nodes_table, outputs_table, workflows_table


def row(**spec):
    return inputs_table([{"name": "x", "tooltip": "T.", **spec}]).splitlines()[-1]


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ({"type": "MODEL"}, "MODEL |  | T."),
        ({"type": "MODEL", "optional": True}, "MODEL, optional |  | T."),
        ({"type": "FLOAT", "default": 0.5, "min": 0.0, "max": 0.95, "step": 0.05}, "0 to 0.95 | 0.5 | T."),
        ({"type": "INT", "default": 64, "min": 8, "max": 128, "step": 8}, "8 to 128 in steps of 8 | 64 | T."),
        ({"type": "INT", "default": 0, "min": 0, "max": 2**64 - 1}, "0 to 2^64 - 1 | 0 | T."),
        ({"type": "BOOLEAN", "default": False, "advanced": True}, "on, off, advanced | off | T."),
        ({"type": "STRING", "default": ""}, "text | empty | T."),
        ({"type": "STRING", "default": "a | b\nc"}, "text | a \\| b … | T."),
        ({"type": "COMBO", "default": "all", "options": ["all", "some"]}, "all, some | all | T."),
        ({"type": "COMBO"}, "choice |  | T."),
        ({"type": "MASK", "tooltip": "the <class word>"}, "MASK |  | the &lt;class word>"),
    ],
)
def test_a_row_has_type_or_range_default_and_tooltip(spec, shown):
    assert row(**spec) == f"| `x` | {shown} |"


def test_a_list_is_named_with_an_output():
    outputs = [{"name": "n", "type": "INT", "list": True, "tooltip": "How many."}]
    assert outputs_table(outputs).splitlines()[-1] == "| `n` | INT, list | How many. |"


def test_the_table_of_nodes_has_optional_inputs_in_parentheses():
    inputs = [{"name": "a", "type": "INT"}, {"name": "b", "type": "INT", "optional": True}]
    node = {"display_name": "One", "inputs": inputs, "outputs": [{"name": "c", "type": "MASK"}]}
    assert nodes_table({"StoryIdentityOne": node}).splitlines()[-1] == "| StoryIdentityOne | One | a, (b) | c (MASK) |"


def test_of_a_workflow_what_is_seen_is_counted():
    """Two widgets of the node's own, one of them tied, and one of the subgraph's; not the note."""
    widgets = [{"name": name, "widget": {}, "link": link} for name, link in (("a", None), ("b", 1))]
    nodes = [
        {"type": "KSampler", "inputs": widgets, "properties": {}},
        {"type": "x", "inputs": [{"name": "m", "link": 2}], "properties": {"proxyWidgets": [["3", "steps"]]}},
        {"type": "MarkdownNote", "inputs": [{"name": "text", "widget": {}, "link": None}], "properties": {}},
    ]
    workflow = {"nodes": nodes, "links": [[1], [2]], "extra": {"ds": {"scale": 0.63}}}
    workflow["definitions"] = {"subgraphs": [{"name": "Draw"}]}
    assert workflows_table({"one.json": workflow}).splitlines()[-1] == "| `one` | 3 | 2 | 2 | Draw | 63 % |"


@pytest.fixture
def pack(tmp_path):
    (tmp_path / "web" / "docs").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "architecture.md").write_text("<!-- nodes -->\n<!-- /nodes -->\n")
    return tmp_path


SCHEMAS = {"nodes": {"KSampler": {}, "StoryIdentityOne": {"display_name": "One", "inputs": [], "outputs": []}}}


def test_only_what_stands_between_the_markers_changes(pack):
    page = pack / "web" / "docs" / "StoryIdentityOne.md"
    text = "# One\n<!-- inputs -->\nold\n<!-- /inputs -->\nprose\n<!-- outputs -->\n<!-- /outputs -->\nend\n"
    page.write_text(text)
    once = filled_pages(pack, SCHEMAS)[page]
    assert once.startswith("# One\n<!-- inputs -->\n\nThis node has no inputs.\n\n<!-- /inputs -->\nprose\n")
    assert once.endswith("<!-- /outputs -->\nend\n")
    page.write_text(once)
    assert filled_pages(pack, SCHEMAS)[page] == once


@pytest.mark.parametrize("text", ["<!-- inputs -->\n", 2 * "<!-- inputs -->\n<!-- /inputs -->\n"])
def test_a_page_without_one_pair_of_markers_is_an_error(pack, text):
    (pack / "web" / "docs" / "StoryIdentityOne.md").write_text(text)
    with pytest.raises(
        ValueError, match="StoryIdentityOne.md must have the markers <!-- inputs --> and <!-- /inputs --> once each"
    ):
        filled_pages(pack, SCHEMAS)


def test_a_node_without_a_help_page_is_named_with_the_markers_to_write(pack):
    with pytest.raises(ValueError, match="StoryIdentityOne.md is missing.*<!-- inputs --> and <!-- /inputs -->"):
        filled_pages(pack, SCHEMAS)
