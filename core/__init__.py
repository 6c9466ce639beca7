"""The domain of the service: records, blobs, queue, job state machine. Knows no web framework and no torch."""
