"""A small world of drawn people with small models of the usual kind, so that everything runs without a download.

Here is what is needed to load it: `models` holds the sizes of the networks and where their weights lie, `vocabulary`
the words; `vae`, `detector`, `identity_encoder` and `recogniser` are networks of this package's own.
"""
