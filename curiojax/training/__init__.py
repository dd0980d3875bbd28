"""The training stages: state, jitted steps, checkpoints, metrics and the loops themselves."""
