"""The toy world's drawn people: pictures, captions, exact masks and identity numbers, and the training of its networks.

`people`, `drawing`, `scenery`, `captions` and `world` make the pictures; `training` makes all the weights. What is
needed to load the networks is `core.toyworld`.
"""
