"""One job in several processes, each with a device of its own, under `torch.distributed.run`.

Every process walks the same steps with the same seed and comes to the same network; only trainings are divided: each process takes a
part of every batch, and gradients, statistics of batch normalization and dropout are those of the whole batch. Whatever decides by a
measurement is asked in the first process, which tells the others. It alone speaks, saves, measures and publishes.
"""
