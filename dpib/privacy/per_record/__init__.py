"""Per-record gradients, clipped and summed: several ways to compute one and the same sum."""
