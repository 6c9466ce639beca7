"""Job children: a warm parent that forks them, what confines them, and the supervisor's end of it.

Everything here imports without torch; only the warm parent preloads it. Linux only: Landlock, seccomp, PDEATHSIG.
"""
