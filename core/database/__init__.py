"""Database sessions, tables, clock, migrations, paging, leases."""
