"""Diffusion as Karras et al. (EDM, NeurIPS 2022, arXiv:2206.00364) put it: scalings, loss, samplers."""
