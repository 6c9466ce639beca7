"""ResNet for photographs (He et al. 2015, table 1); the stride of a bottleneck stands in its 3×3 convolution, as in torchvision."""
