"""ResNet for small images (He et al. 2015, section 4.2), with projection shortcuts (option B) so that pruning may touch every stage."""
