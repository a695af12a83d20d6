"""The entry points of the MLflow project: each turns its command line into a call and prints what came out."""

import os

from dpib import lifeline

if os.environ.get("RANK", "0") != "0":
    os.environ.setdefault("TQDM_DISABLE", "1")  # rank 0 alone shows progress
# Before the imports, which take seconds.
lifeline.hold()
lifeline.return_to_caller()
