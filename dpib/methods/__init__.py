"""Synthesizers: each consumes releases of the vault and public data, and draws labelled images."""
