"""A small world of drawn people with small models of the usual kind, so that everything runs without a download.

`people`, `drawing`, `captions` and `world` make the pictures; `models` says how large the networks are and where their
weights lie; `detector` and `identity_encoder` are networks of this package's own; `training` makes all the weights.
"""
