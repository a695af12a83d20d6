"""The entry points of the MLflow project: each turns its command line into a call and prints what came out."""
