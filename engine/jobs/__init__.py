"""The life of a job in its process: load, walk the steps, publish, report; inspections."""
