"""The parts of a lottery ticket: mask criteria, what happens to weights under a mask, and the files of a ticket."""
