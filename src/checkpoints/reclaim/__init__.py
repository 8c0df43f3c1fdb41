"""Free the storage of deleted checkpoints: from the stream to a queue, and from it to S3."""
