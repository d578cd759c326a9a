"""Which pictures of a folder become a group, and why the others do not (Storynizor, section 4)."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.cluster import hierarchy
from torch import Tensor

from ...core.character_mentions import Character
from ...core.layout import Layout
from ...core.layout_search import find_layout
from ...core.quoting import printable, quote
from ...core.shapes import Bool, Float, Int
from ...headless.prompts import word_positions
from ...headless.reference_pictures import open_picture, read_float
from ...headless.run_files import mask_picture
from .measures import Measures, Picture
from .phrase import find_class_word, identifying_spans, phrase_span, shared_phrase
from .pictures import png_bytes, spread_of
from .settings import StoryDBSettings
from .sources import Source

LOOSE = "loose/"
"""The source of the pictures that lie next to the folders; no folder has this name."""
_GREY = 0.5


@dataclass(frozen=True)
class Drop:
    """A picture that is in no group.

    Args:
        file: Its path below the root.
        source: Its folder's name, or `LOOSE`.
        reason: In two or three words, the same for all that were dropped for it.
        detail: The numbers or words it failed by.
    """

    file: str
    source: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Member:
    """A picture of a group.

    Args:
        file: Its path below the root.
        caption: Its caption.
        masks: Where the characters are: a palette PNG as `headless.run_files.mask_picture` makes it.
    """

    file: str
    caption: str
    masks: bytes


@dataclass(frozen=True)
class Kept:
    """A group's pictures and who is on them."""

    characters: tuple[Character, ...]
    members: tuple[Member, ...]


@dataclass(frozen=True)
class _Seen:
    """What was measured of a member: per character its face's vector and its look, None where it has none."""

    member: Member
    faces: tuple[Tensor | None, ...]
    looks: tuple[Tensor | None, ...]


class GroupFilter:
    """Makes groups of one source's pictures. What does not pass is in `drops`, with the reason.

    Pictures are read one at a time and let go again; of a picture that passes, its masks and vectors are kept.

    Args:
        root: Where the files' paths begin.
        source: The pictures.
        settings: The thresholds.
        measures: The models.
    """

    def __init__(self, root: Path, source: Source, settings: StoryDBSettings, measures: Measures) -> None:
        self.drops: list[Drop] = []
        self._root = root
        self._source = source
        self._settings = settings
        self._measures = measures

    def groups(self) -> list[Kept]:
        """The source's groups, none if too few of its pictures pass."""
        self._drop_refused()
        captions = self._captions(self._readable())
        captions = {file: caption for file, caption in captions.items() if self._fits(file, caption)}
        characters = self._characters(captions)
        if not characters:
            return []
        seen = self._see(captions, characters)
        seen = self._alike(seen, characters, lambda each: each.faces, "wrong person", self._settings.identity)
        seen = self._alike(seen, characters, lambda each: each.looks, "unlike the group", self._settings.look)
        return self._divided([each.member for each in seen], characters)

    def vectors(self) -> tuple[list[str], Float[Tensor, "n d"]]:
        """Files whose character could be distinguished from others, with the unit vectors of the face (or the look).

        The class word is looked for in the picture's own caption; without a caption, any of the settings' words counts.

        Raises:
            ValueError: If there is neither an identity nor a look model.
        """
        self._drop_refused()
        if self._source.files and self._measures.identity is None and self._measures.look is None:
            raise ValueError(
                "Loose pictures are grouped by faces or by CLIP, and neither is given: name a model, or put the "
                "pictures into one folder per character."
            )
        found: dict[str, Tensor] = {}
        for file in self._readable():
            caption = self._source.captions.get(file)
            word = find_class_word([caption] if caption else [], self._settings.words)
            vector = self._vector(file, [word] if word else self._settings.words)
            if vector is not None:
                found[file] = vector
        return list(found), torch.stack([*found.values()]) if found else torch.zeros(0, 1)

    def _drop_refused(self) -> None:
        for file, why in self._source.refused.items():
            self._drop(file, why.reason, why.detail)

    def _readable(self) -> list[str]:
        """Files that are pictures, large enough, with something on them, and no copies of an earlier one."""
        kept: dict[bytes, str] = {}
        for file in self._source.files:
            try:
                picture = open_picture(self._root / file)
            except ValueError as error:
                self._drop(file, "unreadable", printable(str(error).replace(str(self._root), "")))
                continue
            spread = spread_of(picture)
            if min(picture.size) < self._settings.least_side:
                self._drop(file, "too small", f"{picture.width}x{picture.height}, least {self._settings.least_side}")
            elif spread < self._settings.contrast:
                self._drop(file, "blank", f"colours spread by {spread:.3f}, least {self._settings.contrast:.3f}")
            elif (mark := hashlib.sha256(picture.tobytes()).digest()) in kept:
                self._drop(file, "duplicate", f"the same as {kept[mark]}")
            else:
                kept[mark] = file
        return list(kept.values())

    def _captions(self, files: Sequence[str]) -> dict[str, str]:
        """Captions by file: those that lie there, and for the others the captioner's."""
        captions = {file: self._source.captions.get(file, "") for file in files}
        bare = [file for file, caption in captions.items() if not caption]
        if bare and self._measures.caption is not None:
            texts = self._measures.caption([self._root / file for file in bare])
            if len(texts) != len(bare):
                raise ValueError(
                    f"The captioner gave {len(texts)} captions for {len(bare)} pictures; it must give one each."
                )
            captions.update((file, " ".join(text.split())) for file, text in zip(bare, texts, strict=True))
        for file, caption in captions.items():
            if not caption:
                self._drop(file, "no caption", "no .txt of its name, no line in a metadata.jsonl, and no captioner")
        return {file: caption for file, caption in captions.items() if caption}

    def _fits(self, file: str, caption: str) -> bool:
        """Whether picture and caption pass by themselves; the tokenizer first, which costs nothing."""
        measures, settings = self._measures, self._settings
        if measures.tokenizer is not None:
            count = len(measures.tokenizer(caption, truncation=False, verbose=False).input_ids)
            most = measures.tokenizer.model_max_length
            if count > most:
                return self._drop(file, "caption too long", f"{count} tokens, {most} fit")
        picture = read_float(self._root / file)
        if measures.aesthetic is not None:
            score = measures.aesthetic(picture)
            if not score >= settings.aesthetic:
                return self._drop(file, "not beautiful", f"score {score:.2f}, least {settings.aesthetic:.2f}")
        if measures.agreement is not None:
            score = measures.agreement(picture, caption)
            if not score >= settings.agreement:
                return self._drop(file, "wrong caption", f"agreement {score:.2f}, least {settings.agreement:.2f}")
        return True

    def _characters(self, captions: Mapping[str, str]) -> tuple[Character, ...]:
        """Who the user says is shown, or the one whom all captions name in the same words."""
        if self._source.characters or not captions:
            return self._source.characters
        texts = list(captions.values())
        word = find_class_word(texts, self._settings.words)
        phrase = shared_phrase(texts, word, self._settings.phrase_share) if word else None
        if word and phrase:
            return (Character(self._source.name, word, phrase),)
        rare = f'"{word}" is in fewer than {self._settings.phrase_share:.0%} of the captions'
        for file in captions:
            self._drop(file, "no shared phrase", rare if word else "no caption of the folder has a class word")
        return ()

    def _see(self, captions: Mapping[str, str], characters: Sequence[Character]) -> list[_Seen]:
        """Masks and vectors of the pictures whose captions name somebody, and where all who are named are found."""
        seen = []
        for file, caption in captions.items():
            named = [character for character in characters if phrase_span(character, caption)]
            if not named:
                phrases = " or ".join(quote(character.description) for character in characters)
                self._drop(file, "other words", f"the caption {quote(caption)} does not say {phrases}")
                continue
            if not self._shows_words(file, caption, named):
                continue
            picture = read_float(self._root / file)
            layout = self._layout(file, picture, named, characters)
            vectors = self._measured(file, picture, layout) if layout else None
            if layout and vectors:
                seen.append(_Seen(Member(file, caption, png_bytes(mask_picture(layout))), *vectors))
        return seen

    def _shows_words(self, file: str, caption: str, named: Sequence[Character]) -> bool:
        """Whether the tokenizer, if there is one, shows the characters' words as words of their own."""
        if self._measures.tokenizer is None:
            return True
        pipe = SimpleNamespace(tokenizer=self._measures.tokenizer)
        try:
            for span in [span for character in named for span in identifying_spans(character, caption)]:
                word_positions(pipe, caption, span, file)
        except ValueError as error:
            return self._drop(file, "glued words", printable(str(error)))
        return True

    def _layout(
        self, file: str, picture: Picture, named: Sequence[Character], characters: Sequence[Character]
    ) -> Layout | None:
        """Where everybody is whom the caption names, the others with empty masks; None if somebody is not found."""
        settings, detector = self._settings, self._measures.detector
        found = find_layout(
            detector.find,
            detector.segment,
            picture,
            [(character.name, character.word) for character in named],
            file,
            box_threshold=settings.box_threshold,
            text_threshold=settings.text_threshold,
            dilate_px=0,
            skip_missing=True,
        )
        for character, mask in zip(named, found.masks, strict=True):
            share = float(mask.float().mean())
            if share < settings.least_mask or not share:
                self._drop(
                    file,
                    "nobody found",
                    f"the mask of {quote(character.name)} ({printable(character.word)}) covers {share:.1%} of the "
                    f"picture, least {settings.least_mask:.1%}",
                )
                return None
        masks = torch.zeros(len(characters), *picture.shape[:2], dtype=torch.bool)
        masks[[characters.index(character) for character in named]] = found.masks
        return Layout([character.name for character in characters], masks, file)

    def _measured(
        self, file: str, picture: Picture, layout: Layout
    ) -> tuple[tuple[Tensor | None, ...], tuple[Tensor | None, ...]] | None:
        """Faces and looks of everybody who is there; None if a face cannot be seen."""
        faces: list[Tensor | None] = []
        looks: list[Tensor | None] = []
        for name, mask in zip(layout.names, layout.masks, strict=True):
            there, identity, look = bool(mask.any()), self._measures.identity, self._measures.look
            face = identity(picture, mask) if identity is not None and there else None
            if identity is not None and there and face is None:
                self._drop(file, "no face", f"of {quote(name)} no face was found to compare")
                return None
            faces.append(face)
            looks.append(look(_alone(picture, mask)) if look is not None and there else None)
        return tuple(faces), tuple(looks)

    def _vector(self, file: str, words: Sequence[str]) -> Float[Tensor, " d"] | None:
        picture, detector, settings = read_float(self._root / file), self._measures.detector, self._settings
        candidates = [detector.find(picture, word) for word in words]
        good = [
            (float(each.scores[place]), each.boxes[place])
            for each in candidates
            for place in range(len(each.scores))
            if each.scores[place] > settings.box_threshold and each.text_scores[place] > settings.text_threshold
        ]
        masks = [detector.segment(picture, max(good, key=lambda pair: pair[0])[1][None])[0]] if good else []
        if not masks or not masks[0].any():
            self._drop(file, "nobody found", f"no {' or '.join(words)} scored more than {settings.box_threshold:.2f}")
            return None
        if self._measures.identity is None:
            assert self._measures.look is not None
            return self._measures.look(_alone(picture, masks[0]))
        face = self._measures.identity(picture, masks[0])
        if face is None:
            self._drop(file, "no face", "no face was found to tell whose picture it is")
        return face

    def _alike(
        self,
        seen: list[_Seen],
        characters: Sequence[Character],
        vectors: Callable[[_Seen], tuple[Tensor | None, ...]],
        reason: str,
        least: float,
    ) -> list[_Seen]:
        """Those whose characters are like the same character in most of the other pictures."""
        dropped: set[str] = set()
        for place, character in enumerate(characters):
            known = [(each.member.file, vector) for each in seen if (vector := vectors(each)[place]) is not None]
            if len(known) < 2:
                continue
            medians = median_likeness(torch.stack([vector for _, vector in known]))
            for (file, _), value in zip(known, medians.tolist(), strict=True):
                if value < least and file not in dropped:
                    self._drop(
                        file, reason, f"{quote(character.name)}: cosine {value:.2f} to the others, least {least:.2f}"
                    )
                    dropped.add(file)
        return [each for each in seen if each.member.file not in dropped]

    def _divided(self, members: Sequence[Member], characters: tuple[Character, ...]) -> list[Kept]:
        """Groups of a permitted size, neighbours in different ones: pictures of one film look too much alike."""
        count, least = len(members), self._settings.least
        if count < least:
            for member in members:
                self._drop(member.file, "group too small", f"{count} left of {len(self._source.files)}, least {least}")
            return []
        parts = -(-count // self._settings.most)
        return [Kept(characters, tuple(members[part::parts])) for part in range(parts)]

    def _drop(self, file: str, reason: str, detail: str) -> bool:
        self.drops.append(Drop(file, self._source.name or LOOSE, reason, detail))
        return False


def median_likeness(vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The median cosine of every unit vector to the others, 2 or more.

    As long as more than half of the others show the same person, whoever else is among them does not move it far.
    """
    cosines = vectors.double() @ vectors.double().T
    others = ~torch.eye(len(vectors), dtype=torch.bool)
    return cosines[others].view(len(vectors), -1).median(dim=1).values.float()


def clusters(vectors: Float[Tensor, "n d"], least: float | int) -> Int[Tensor, " n"]:
    """Whose picture each is, by average linkage: two clusters join while their mean cosine is at least `least`.

    Memory grows with the square of n: 10,000 pictures take about 0.8 GB.

    Args:
        vectors: Unit vectors.
        least: A cosine.

    Returns:
        A number per picture, counted from 0 in the order of first appearance.
    """
    if len(vectors) < 2:
        return torch.zeros(len(vectors), dtype=torch.long)
    cosines = (vectors.double() @ vectors.double().T).numpy()
    distances = np.maximum(1 - cosines[np.triu_indices(len(vectors), k=1)], 0)
    found = hierarchy.fcluster(hierarchy.linkage(distances, "average"), 1 - least, "distance")
    numbers: dict[int, int] = {}
    return torch.tensor([numbers.setdefault(int(each), len(numbers)) for each in found])


def about_member(kept: Kept, member: Member) -> dict[str, Any]:
    """What a database says of a picture in addition to its caption: who is on it, and which words say so."""
    people = []
    for character in kept.characters:
        span = phrase_span(character, member.caption)
        people.append(
            {
                "name": character.name,
                "phrase": None if span is None else list(span),
                "words": [list(each) for each in identifying_spans(character, member.caption)],
            }
        )
    return {"source": member.file, "characters": people}


def _alone(picture: Picture, mask: Bool[Tensor, "h w"]) -> Float[Tensor, "side side 3"]:
    """Whoever the mask covers in the middle of a grey square, so that a shared background does not count."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    box = slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)
    cut = torch.where(mask[box].unsqueeze(-1), picture[box], _GREY)
    side = max(cut.shape[:2])
    top, left = ((side - length) // 2 for length in cut.shape[:2])
    square = torch.full((side, side, 3), _GREY)
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return square
