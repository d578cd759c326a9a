"""What some settings can be chosen from; without the imports that the choices lead to."""

TOYWORLD = "toyworld"
"""What stands for the weights that come with the pack, in place of a path."""
SAMPLERS = ("euler", "ddim", "dpmpp_2m", "dpmpp_2m_sde")
SCHEDULES = ("normal", "simple", "ddim_uniform", "karras")
DETECTORS = ("none", TOYWORLD, "grounded-sam")
DTYPES = ("float32", "float16", "bfloat16")
