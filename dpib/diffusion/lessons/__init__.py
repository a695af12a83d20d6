"""What a denoiser may learn from before its first private gradient."""
