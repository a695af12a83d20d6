"""The stages: each turns a configuration and the artifacts of earlier stages into artifacts and metrics."""
