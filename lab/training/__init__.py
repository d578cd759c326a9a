"""Training as Storynizor does it: groups of pictures of the same people, the synchronizer LoRA, the ID injector."""
