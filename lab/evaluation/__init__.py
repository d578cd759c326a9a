"""What is measured and how: `python -m story_identity.lab.evaluation` fills the tables of `docs/evidence.md`.

`scores` are the formulas, `stories` what is told, `folder` where the numbers are kept, `markdown` and `figure` what is
made of them. The command `toyworld` re-denoises: `variants` are its ways to draw a story, `toyworld` the numbers of one
story, `tables` its tables. The command `storynizor` draws frames together: `ways`, `storynizor` (with `auto_masks` and
`layouts`) and `storynizor_tables`. The command `training` draws them with what the trainers made: `training` and
`training_tables`.
"""
