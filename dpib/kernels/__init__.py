"""Random features of kernels, and the distances between distributions that they define."""
