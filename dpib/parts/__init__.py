"""Networks trained on public images, shared by methods and data sets."""
