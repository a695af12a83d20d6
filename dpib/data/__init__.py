"""Data sets: their cards, their preparation from official archives, and how they are read and split."""
