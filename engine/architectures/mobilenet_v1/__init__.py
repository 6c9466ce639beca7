"""MobileNetV1 (Howard et al. 2017, table 1)."""
