"""LeNet-300-100 (LeCun et al. 1998): a multilayer perceptron on pixels."""
