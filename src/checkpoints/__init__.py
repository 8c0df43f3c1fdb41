"""List and delete model checkpoints: a Lambda function behind an API Gateway REST API."""
