"""The database's history, as Alembic revisions for SQLite and PostgreSQL."""
