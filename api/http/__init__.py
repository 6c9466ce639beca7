"""HTTP beyond the routes: bodies, ranges, conditions, problems."""
