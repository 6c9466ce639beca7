"""LeNet-5 (LeCun et al. 1998, section II) as it is trained today: ReLU and max pooling."""
