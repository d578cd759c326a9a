"""The generator of the shipped workflows and of the pages' tables: `python -m story_identity.lab.workflows`.

`schemas` asks a running ComfyUI what the nodes look like and stores it in node_schemas.json; `kinds` reads that,
`presets` has the values that the workflows choose, `groups` the groups of nodes that recur, `graph` lays them out.
`identitystory`, `storynizor`, `each_frame` and `any_cast` hold one function per workflow. `pages` makes the tables of
nodes, inputs and outputs.
"""
