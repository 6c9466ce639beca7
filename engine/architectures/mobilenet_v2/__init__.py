"""MobileNetV2 (Sandler et al. 2018, table 2)."""
