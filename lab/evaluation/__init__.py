"""What is measured and how: `python -m story_identity.lab.evaluation` fills the tables of `docs/evidence.md`.

`scores` are the formulas, `stories` the stories, `folder` where the numbers are kept, `markdown` and `figure` what is
made of them. The command `toyworld` re-denoises: `variants` are its variants of drawing a story, `toyworld` the numbers
of one story, `tables` its tables. The command `storynizor` draws frames together: `drawing_modes`, `storynizor` (with
`auto_masks` and `layouts`) and `storynizor_tables`. The command `training` draws them with what the trainers made:
`training` and `training_tables`.
"""
