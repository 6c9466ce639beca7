"""What the families that remove or share channels have in common: ranking them, choosing and counting them, and normalization on the way."""
