"""Networks with classifiers on the way: where they are attached, how they are cut into stages, calibrated, and written."""
