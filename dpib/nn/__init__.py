"""Networks that the methods train and the evaluation uses; none of them knows about privacy."""
