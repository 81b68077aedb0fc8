"""The member axis: injection into any pretrained model, late fan-out, and checkpoints that hold members only."""
