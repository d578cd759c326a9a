"""Given names that are English words as well, in small letters."""

ALSO_WORDS = frozenset(
    "amber angel april art august autumn baker basil bear bill bob brook candy carter chase cherry cliff cook coral "
    "crystal daisy dale dawn dean drew duke eve faith fox frank ginger glen grace grant hazel heath holly honey hope "
    "hunter iris ivy jack jade jasmine joy june king lily lucky mark mason max may melody miles olive page pat peach "
    "pearl poppy prince queen rain raven ray reed rich river rob robin rocky rose ruby rusty sage sandy sky smith star "
    "storm summer sunny tiger victor violet will wolf wren".split()
)
