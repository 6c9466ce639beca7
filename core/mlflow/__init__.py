"""MLflow, a server of experiments and models: jobs that ended are written there as runs, and models are read from there.

The dozen requests that this takes go through `core.egress`, since a client names the server: MLflow's own client follows redirects and
connects to whatever a name means at that moment.
"""
