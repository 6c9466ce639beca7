"""News for other programs: what happened to a project's jobs is posted to the addresses that it named (Standard Webhooks)."""
