"""The papers' scores as formulas on features: how alike characters stay, and how well pictures agree with their words.

IdentityStory (section 4.1) and Storynizor (section 5 and appendix). Nothing here sees a picture but `segmented`, and
nothing loads a network: encoders are in `core.encoders`, face recognisers in `core.recognisers`.
"""
