"""The first tables of `docs/evidence/identitystory.md`, from the rows that `identitystory.measure_story` gives."""

from ..toyworld.probe import PERSON, SCENE
from .identitystory import DRAWN, OTHERS
from .markdown import Rows, about, at, cell, difference, table
from .variants import DIRECT, FIXED, LARGE, NARROW, NARROW_RANK, TEMPLATE

_FACES = {
    TEMPLATE: "base model alone (the template)",
    "mean": "re-denoised, mean of all portraits",
    "discovered": "re-denoised, discovered identity",
    NARROW: f"re-denoised, discovered with rank {NARROW_RANK}",
    "true": "re-denoised, true identity",
    DIRECT: "directly, discovered identity",
    DRAWN: "*drawn, one person throughout*",
    OTHERS: "*drawn, anybody the caption fits*",
}
_PAIRS = (
    ("discovered", TEMPLATE),
    ("mean", TEMPLATE),
    ("discovered", "mean"),
    (NARROW, "mean"),
    (NARROW, "discovered"),
    ("true", "discovered"),
    (DIRECT, "discovered"),
)
_IDENTITIES = {
    "cohesion_all": "identity embeddings of all portraits",
    "cohesion_kept": "identity embeddings of the kept portraits",
    "cohesion_narrow": f"identity embeddings of those kept with rank {NARROW_RANK}",
    "cohesion_true": "identity embeddings of drawn portraits of one person",
    "faces_all": "faces of all portraits (the encoder of Face-Sim)",
    "faces_kept": "faces of the kept portraits (the encoder of Face-Sim)",
    "faces_narrow": f"faces of those kept with rank {NARROW_RANK} (the encoder of Face-Sim)",
    "discovered_and_mean": "discovered identity against the mean of all portraits",
    "narrow_and_mean": f"the one of rank {NARROW_RANK} against the mean of all portraits",
    "energy": "*share of energy in the leading directions, rank 10*",
    "energy_narrow": f"*share of energy in the leading directions, rank {NARROW_RANK}*",
}
_READ = (TEMPLATE, "discovered", DIRECT, DRAWN)


def make_tables(rows: Rows) -> str:
    """All tables, as Markdown."""
    parts = (about, _face_table, _pair_table, _identity_table, _agreement_table, _background_table, _edge_table)
    return "\n\n".join(part(rows) for part in parts)


def _face_table(rows: Rows) -> str:
    wanted = sum(row["faces_wanted"] for row in rows)
    lines = []
    for name, label in _FACES.items():
        found = sum(row["faces"][name] for row in rows)
        likeness = "" if name == DRAWN else cell(rows, at("likeness", name))
        face_sim = cell(rows, at("face_sim", name))
        lines.append((label, face_sim, f"{found} of {wanted}", likeness))
    return table(("**Faces**", "Face-Sim", "faces found", "likeness to the true person"), lines)


def _pair_table(rows: Rows) -> str:
    lines = []
    for name, other in _PAIRS:
        label = f"{_FACES[name]} − {_FACES[other]}"
        lines.append((label, difference(rows, at("face_sim", name), at("face_sim", other))))
    return table(("**Differences**", "Face-Sim"), lines)


def _identity_table(rows: Rows) -> str:
    lines = [(label, cell(rows, at("identity", key))) for key, label in _IDENTITIES.items()]
    return table(("**Agreement among portraits**", "mean pairwise cosine"), lines)


def _agreement_table(rows: Rows) -> str:
    lines = []
    for name in ("scene", *SCENE, "person", *PERSON):
        label = {"scene": "**scene**", "person": "**person**"}.get(name, name)
        cells = [cell(rows, at("agreement", variant, name), 100, 1) for variant in _READ]
        for other in (TEMPLATE, DIRECT):
            both = at("agreement", "discovered", name), at("agreement", other, name)
            cells.append(difference(rows, *both, scale=100, digits=1))
        lines.append((label, *cells))
    titles = ("template", "re-denoised", "direct", "*drawn*", "re-denoised − template", "re-denoised − direct")
    return table(("**As the caption says, %**", *titles), lines)


def _background_table(rows: Rows) -> str:
    largest = max((row["background"].get("latent_difference") or 0.0 for row in rows), default=0.0)
    lines = [
        ("latent, largest difference in any frame", f"{largest:g}"),
        ("picture, PSNR in dB", cell(rows, at("background", "psnr"), digits=1)),
        (
            "picture, PSNR in dB, drawn directly",
            cell(rows, at("background", "psnr_direct"), digits=1),
        ),
        ("share of the picture inside the masks, %", cell(rows, at("background", "covered"), 100, 1)),
    ]
    return table(("**Outside the final masks, against the template**", ""), lines)


def _edge_table(rows: Rows) -> str:
    lines = []
    for key, label, scale in (("ghost", "ghost, % of the old figure", 100), ("seam", "seam, levels of 255", 1)):
        of = {variant: at("edges", variant, key) for variant in (FIXED, LARGE, "discovered")}
        means = [cell(rows, value, scale, 2) for value in of.values()]
        changes = [difference(rows, of["discovered"], of[other], scale, 2) for other in (FIXED, LARGE)]
        lines.append((label, *means, *changes))
    titles = ("fixed", "fixed, large", "progressive", "progressive − fixed", "progressive − fixed, large")
    return table(("**Edges of the masks**", *titles), lines)
