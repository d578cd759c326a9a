"""The generator of the shipped workflows: `python -m story_identity.lab.workflows`.

`kinds` describes the nodes, `groups` the groups of nodes that recur, `graph` lays them out; `identitystory` and
`storynizor` hold one function per workflow.
"""
