"""What is measured and how: `python -m story_identity.core.evaluation toyworld` fills the tables of `docs/evidence.md`.

`scores` are the formulas, `stories` what is told, `variants` the ways to draw it, `toyworld` the numbers of one story,
`folder` where they are kept, `tables` and `figure` what is made of all of them.
"""
