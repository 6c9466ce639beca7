"""Vision transformer (Dosovitskiy et al. 2020, section 3), in the sizes of small images."""
