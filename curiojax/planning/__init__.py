"""What a training step will need, found by compiling it: memory, collectives, arithmetic."""
