"""Figures of files: scored, counted and timed by a fresh process that never saw the network in memory."""
