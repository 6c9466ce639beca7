"""The report of a job: one JSON document, and pages made of it."""
