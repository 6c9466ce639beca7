"""Pruning, distillation and int8 on a network of each task, beside the same by hand."""
