"""For tests only: a MODEL that writes a line to the log for every evaluation, and a node that does when it runs."""

import logging

from comfy.patcher_extension import WrappersMP


class CountEvaluations:
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "count"
    CATEGORY = "tests"

    INPUT_TYPES = classmethod(lambda cls: {"required": {"model": ("MODEL",)}})

    def count(self, model):
        def counted(executor, x, *args, **kwargs):
            logging.warning("SAMPLES %d", len(x))
            logging.warning("EVALUATION")
            return executor(x, *args, **kwargs)

        patched = model.clone()
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count_evaluations", counted)
        return (patched,)


class SayRan:
    """Of an older form of node, with its own id in the key of its results, as some packs have it."""

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "say"
    CATEGORY = "tests"

    INPUT_TYPES = classmethod(
        lambda cls: {
            "required": {"latent": ("LATENT",), "word": ("STRING", {})},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }
    )

    def say(self, latent, word, unique_id):
        logging.warning("RAN %s", word)
        return (latent,)


NODE_CLASS_MAPPINGS = {"CountEvaluations": CountEvaluations, "SayRan": SayRan}
