"""The English texts of the nodes, the translators' files, and the files in ComfyUI's form that follow from both."""

import json
from collections.abc import Iterator
from pathlib import Path

from ..workflows.pages import filled_page
from ..workflows.schemas import PREFIX, Json, read_schemas

PACK = Path(__file__).absolute().parents[2]
SOURCES = Path(__file__).parent
LANGUAGES = ("zh", "zh-TW", "ja", "ko", "fr", "de", "es", "ru")
"""The languages of the pack, by ComfyUI's codes. ComfyUI's editor 1.48 does not offer German yet."""

Translations = dict[str, str]
"""What an English text is in another language."""


def read_nodes() -> Json:
    """The pack's own nodes in node_schemas.json, by id."""
    return {name: node for name, node in read_schemas()["nodes"].items() if name.startswith(PREFIX)}


def source_file(language: str) -> Path:
    """Where the translators' file of a language is."""
    return SOURCES / f"{language}.json"


def read_source(language: str) -> Translations:
    """The translations of a language by English text; none if it has no file yet."""
    file = source_file(language)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write_source(language: str, translations: Translations) -> None:
    """Write the translators' file of a language, sorted by English text."""
    source_file(language).write_text(as_text(dict(sorted(translations.items()))), encoding="utf-8", newline="\n")


def as_text(content: Json | Translations) -> str:
    """The text of a JSON file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def labels(nodes: Json) -> Iterator[str]:
    """The names that the editor shows: of nodes, their categories, inputs and outputs. Some occur repeatedly."""
    for node in nodes.values():
        yield node["display_name"]
        yield from categories(node)
        yield from (each["name"] for each in [*node["inputs"], *node["outputs"]])


def descriptions(nodes: Json) -> Iterator[str]:
    """What the nodes do, in a sentence or two each."""
    return (node["description"] for node in nodes.values())


def tooltips(nodes: Json) -> Iterator[str]:
    """The tooltips of all inputs and outputs that have one. Some occur repeatedly."""
    for node in nodes.values():
        yield from (each["tooltip"] for each in [*node["inputs"], *node["outputs"]] if each["tooltip"])


def english_texts(nodes: Json) -> list[str]:
    """Every text to translate, once, sorted."""
    return sorted({*labels(nodes), *descriptions(nodes), *tooltips(nodes)} - {""})


def categories(node: Json) -> list[str]:
    """The parts of a node's category below the pack's own name, such as `sampling`."""
    return node["category"].split("/")[1:]


def generated(nodes: Json, languages: tuple[str, ...] = LANGUAGES) -> dict[Path, str]:
    """The text of every file in `locales/`, and of every translated help page, by path.

    A text without a translation is left out: it stays English.
    """
    files = {}
    for language in languages:
        translations = read_source(language)
        folder = PACK / "locales" / language
        files[folder / "nodeDefs.json"] = as_text({name: _node(node, translations) for name, node in nodes.items()})
        files[folder / "main.json"] = as_text({"nodeCategories": _categories(nodes, translations)})
        for path in help_pages(language):
            node = nodes[path.parent.name]
            lists = {part: _list(node[part], translations) for part in ("inputs", "outputs")}
            files[path] = filled_page(path, lists)
    return files


def help_pages(language: str) -> list[Path]:
    """The help pages in a language; the editor shows the English one of a node that has none."""
    return sorted((PACK / "web" / "docs").glob(f"*/{language}.md"))


def _list(specs: list[Json], translations: Translations) -> str:
    """A line per input or output: its name in the editor, its name in messages, and its tooltip."""
    return "\n".join(
        f"- **{_translated(each['name'], translations)}** (`{each['name']}`): "
        + _translated(each["tooltip"], translations).replace("<", "&lt;")
        for each in specs
    )


def _translated(text: str, translations: Translations) -> str:
    return translations.get(text, text)


def _node(node: Json, translations: Translations) -> Json:
    about = {key: translations[node[key]] for key in ("display_name", "description") if node[key] in translations}
    inputs = {each["name"]: _socket(each, translations) for each in node["inputs"]}
    outputs = {str(place): _socket(each, translations) for place, each in enumerate(node["outputs"])}
    return {**about, "inputs": inputs, "outputs": outputs}


def _socket(spec: Json, translations: Translations) -> Json:
    return {key: translations[spec[key]] for key in ("name", "tooltip") if spec[key] in translations}


def _categories(nodes: Json, translations: Translations) -> Translations:
    found = sorted({part for node in nodes.values() for part in categories(node)})
    return {part: translations[part] for part in found if part in translations}
