"""The fresh process that scores and times files, and the client that asks it."""
