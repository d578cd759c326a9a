"""What makes and measures the product: training, StoryDB, the drawn toy world, evaluation, workflows, benchmarks."""
