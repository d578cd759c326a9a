"""The translations of the nodes' names and tooltips: `python -m story_identity.lab.locales`.

`de.json` and its neighbours are the translators' files: each English text once, and what it is in that language. From
them and from lab/workflows/node_schemas.json, `texts` makes the files of `locales/` that ComfyUI's editor reads;
`faults` finds what is missing, left over, or not true to the English text.
"""
