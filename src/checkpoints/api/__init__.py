"""The API over checkpoints: a Lambda function behind API Gateway."""
