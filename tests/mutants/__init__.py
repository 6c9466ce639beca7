"""Whether the tests notice small faults in what decides about results: `make mutants`."""
