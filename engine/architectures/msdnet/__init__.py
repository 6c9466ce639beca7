"""The multi-scale dense network (Huang et al., 2018): classifiers on the way, which do not disturb each other."""
