"""What confines the process of a job, and the probe that tries it."""
