"""How outputs are read: what is seen on them and on the targets, which task each does, their scores and their losses."""
