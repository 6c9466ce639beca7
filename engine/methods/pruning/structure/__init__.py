"""What pruning does around the removal of channels: sparse training, sensitivity curves, baselines, trials."""
