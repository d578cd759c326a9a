"""The pack without ComfyUI: the same algorithms under diffusers, and the command line `story-identity`.

`checkpoint` and `photomaker` load models from local files, `sampling` runs the two passes, `run` makes a story in a
folder, `cli` is the command line.
"""
