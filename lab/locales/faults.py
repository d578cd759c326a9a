"""What is wrong with a translation, as far as a program can tell: what must stay as it is in the English text.

A translation keeps quoted values, {placeholders}, numbers, paths and technical words. It calls the pack's nodes and
inputs as the editor shows them, which is translated too, and leaves the values of a list of choices in English, as the
editor does.
"""

import re
from collections import Counter
from collections.abc import Iterator

from ..workflows.schemas import Json
from .texts import Translations, descriptions, english_texts, labels

SCRIPTS = {
    "zh": "[\u4e00-\u9fff]",
    "zh-TW": "[\u4e00-\u9fff]",
    "ja": "[\u3040-\u30ff]",
    "ko": "[\uac00-\ud7af]",
    "ru": "[\u0400-\u04ff]",
}
"""A letter that a sentence of the language must have, where it is not written in Latin letters."""
STOCK = re.compile(
    "CLIP Text Encode|Load CLIP Vision|VAE Decode|KSampler|Preview Any|Empty Latent Image|PhotoMaker Encode"
)
"""ComfyUI's nodes, which a translation calls as ComfyUI's own translation does."""
NUMBER = re.compile(r"\d+(?:\.\d+)*")
QUOTED = re.compile(r'"[^"]+"|\{\w+\}')
PATH = re.compile(r"\w+(?:/[\w-]+)+|\w+\.png")
WORD = re.compile(r"[A-Za-z][\w+-]*(?:\.\w+)*")
MESSAGE_SYNTAX = re.compile(r"[{}|@]")
"""Names and descriptions, unlike tooltips, are templates to the editor, in which these letters are commands."""


def missing(nodes: Json, translations: Translations) -> list[str]:
    """The English texts that have no translation."""
    return [text for text in english_texts(nodes) if not translations.get(text, "").strip()]


def stale(nodes: Json, translations: Translations) -> list[str]:
    """The English texts that are translated but that no node has any more."""
    return sorted(set(translations) - set(english_texts(nodes)))


def untrue(nodes: Json, language: str, translations: Translations) -> Iterator[str]:
    """One line per fault in the translations that there are."""
    names, templates = set(labels(nodes)), {*labels(nodes), *descriptions(nodes)}
    options = _options(nodes)
    for text in english_texts(nodes):
        if translated := translations.get(text, "").strip():
            found = set() if text in names else _lost(text, translated, options.get(text, set()), nodes, translations)
            if _is_sentence(text) and not re.search(SCRIPTS.get(language, "."), translated):
                found.add("a translation")
            if _is_sentence(text) and text == translated:
                found.add("a translation")
            if text in templates and (letters := MESSAGE_SYNTAX.findall(translated)):
                yield f"{text!r}: a name or description may not have {' '.join(letters)}: {translated!r}"
            if found:
                yield f"{text!r}: {', '.join(sorted(found))} is not in {translated!r}"


def _is_sentence(text: str) -> bool:
    return " " in text and text.endswith(".")


def _options(nodes: Json) -> dict[str, set[str]]:
    """The choices of the inputs that have a tooltip, by tooltip."""
    found: dict[str, set[str]] = {}
    for node in nodes.values():
        for each in node["inputs"]:
            found.setdefault(each["tooltip"], set()).update(map(str, each.get("options", ())))
    return found


def _lost(text: str, translated: str, options: set[str], nodes: Json, translations: Translations) -> set[str]:
    """What the translation of a sentence does not have and should."""
    expected, rest = _node_names(text, nodes, translations)
    rest = STOCK.sub(" ", rest)
    expected |= set(QUOTED.findall(rest)) | set(PATH.findall(rest))
    expected |= {option for option in options if re.search(rf"(?:^|[.:;] |\.\.\. ){re.escape(option)}\b", rest)}
    lost = {each for each in expected if each not in translated}
    inputs = {each["name"] for node in nodes.values() for each in node["inputs"]}
    for word in filter(_is_technical, WORD.findall(PATH.sub(" ", QUOTED.sub(" ", rest)))):
        shown = translations[word] if word in inputs and word in translations else word
        if word.removesuffix("s") not in translated and shown not in translated:
            lost.add(shown)
    wanted, there = Counter(NUMBER.findall(rest)), Counter(NUMBER.findall(translated))
    return lost | set(wanted - there)


def _node_names(text: str, nodes: Json, translations: Translations) -> tuple[set[str], str]:
    """How a translation must call the nodes of more than one word that a text mentions, and the text without them."""
    expected = set()
    names: list[str] = sorted((node["display_name"] for node in nodes.values()), key=len, reverse=True)
    for name in names:
        short = _without_parentheses(name)
        if " " in short and short in text:
            text = text.replace(short, " ")
            expected.add(_without_parentheses(translations.get(name, name)))
    return expected, text


def _without_parentheses(name: str) -> str:
    return re.sub(r"\s*[(\uff08].*[)\uff09]$", "", name)


def _is_technical(word: str) -> bool:
    """Whether a word is a name of the field, such as FaceID or dpm_adaptive, which has no translation."""
    return "_" in word.strip("_") or any(map(str.isdigit, word)) or sum(map(str.isupper, word)) > 1
