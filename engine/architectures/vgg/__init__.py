"""VGG with batch normalization (Simonyan & Zisserman 2014, table 1, configurations A, B, D, E)."""
