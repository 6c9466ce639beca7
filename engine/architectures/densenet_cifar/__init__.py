"""DenseNet for small images (Huang et al. 2016, section 3), without bottlenecks and compression."""
