"""What is measured and how: `python -m story_identity.lab.evaluation` fills the tables of the pages in `docs/evidence`.

`scores` has the formulas and `stories` the stories; `folder` keeps the numbers, `markdown` and `figure` make tables and
figures of them. The command `toyworld` re-denoises stories: `variants` draws one in all variants, `identitystory`
measures it, `tables` makes the tables. The command `storynizor` draws frames together: `drawing_modes`, `storynizor`
(with `auto_masks` and `layouts`) and `storynizor_tables`. The command `training` draws them with the networks that the
trainers made: `training` and `training_tables`. `discovery` draws what Identity Discovery finds with several ranks and
rounds, `transformer` re-denoises and shares by the diffusion transformer. `score-report` scores stories by the
functions of the report (`score_report`), and `takes` keeps one of several takes of every frame (`best_of_takes`).
"""
