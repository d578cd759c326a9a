"""What some settings can be chosen from, and what the command line needs; without the imports that they lead to."""

TOYWORLD = "toyworld"
"""What stands for the weights that come with the pack, in place of a path."""
SAMPLERS = ("euler", "ddim", "dpmpp_2m", "dpmpp_2m_sde")
SCHEDULES = ("normal", "simple", "ddim_uniform", "karras")
DETECTORS = ("none", TOYWORLD, "grounded-sam")
DTYPES = ("float32", "float16", "bfloat16")
NEEDED = 'The command line needs: pip install "storyidentity[standalone,headless]"'
"""What to do where a package is missing."""
