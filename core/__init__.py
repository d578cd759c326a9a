"""The algorithms, on tensors: no host, no diffusers.

Axis names in shapes, everywhere: b image, s character, c channel, h w rows and columns (of the latent grid or of the
picture, the text says which), m portrait, d embedding width, n box or frame. Pictures are `h w 3` or `b h w 3`,
float in [0, 1]; boxes are `x0 y0 x1 y1` in pixels; masks are bool.
"""
