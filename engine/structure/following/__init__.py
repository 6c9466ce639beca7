"""Following channels through a network: every element of every value is numbered with the channel that it vanishes with."""
