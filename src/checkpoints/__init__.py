"""List and delete model checkpoints, and free their storage: two AWS Lambda functions."""
