"""One job in several processes, each with a device of its own, under `torch.distributed.run`.

Every process walks the same steps with the same seed and comes to the same network; only trainings are divided: each process takes a
part of every batch, and gradients, statistics of batch normalization and dropout are those of the whole batch. Whatever decides by a
measurement is taken in the first process, which sends it to the others. It alone emits events, saves, measures and publishes.
"""
