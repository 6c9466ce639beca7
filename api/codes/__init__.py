"""What every stable code means and what to do: one entry a code, for problem documents, the pages below `/problems` and `docs/errors.md`."""
