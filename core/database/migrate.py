"""Bring the database to the version that the code needs: `python -m core.database.migrate upgrade | downgrade REVISION | check | current`."""

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import inspect

from core.database.db import Database
from core.errors import Unavailable
from core.settings import Settings


def upgrade(settings: Settings, revision: str = "head") -> None:
    """Migrate up; several processes may do so at once, one of them does the work. All or nothing."""
    database = Database(settings)
    try:
        _require_own(database)
    finally:
        database.close()
    _run(settings, lambda config: command.upgrade(config, revision))


def _require_own(database: Database) -> None:
    """Raises `service_unavailable` for a database that holds somebody else's tables."""
    tables = set(inspect(database.engine).get_table_names())
    if tables and "alembic_version" not in tables:
        raise Unavailable(
            f"the database holds tables that are not Modelpress's ({', '.join(sorted(tables)[:3])}), and is left as it is",
            hint="give Modelpress a database of its own",
        )


def downgrade(settings: Settings, revision: str) -> None:
    """Migrate down to `revision`, or `base`."""
    _run(settings, lambda config: command.downgrade(config, revision))


def check(settings: Settings) -> None:
    """Raises `CommandError` when the migrations do not make the tables that the code declares."""
    _run(settings, command.check)


def current(settings: Settings) -> str | None:
    """The database's revision; None when it was never migrated."""
    database = Database(settings)
    try:
        return revision(database)
    finally:
        database.close()


def revision(database: Database) -> str | None:
    """The revision of an open database."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


@functools.cache
def head() -> str | None:
    """The revision that the code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def require_current(settings: Settings) -> None:
    """Raises `service_unavailable` when the database is not at the code's revision: an old worker must not run on new tables."""
    found, needed = current(settings), head()
    if found != needed:
        raise Unavailable(
            f"the database is at revision {found or 'none'}, this version of Modelpress needs {needed}",
            hint="run `modelpress migrate`, or start the version that matches the database",
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _run(settings: Settings, action: Callable[[Config], None]) -> None:
    database = Database(settings)
    try:
        with database.engine.begin() as connection:
            config = _config()
            config.attributes["connection"] = connection
            action(config)
    finally:
        database.close()


def main() -> int:
    """The command line; `check` without a database of its own makes a fresh one."""
    parser = argparse.ArgumentParser(prog="python -m core.database.migrate", description="Migrate the database of MODELPRESS_DATABASE_URL.")
    parser.add_argument("action", choices=["upgrade", "downgrade", "check", "current"])
    parser.add_argument("revision", nargs="?", help="for upgrade and downgrade")
    arguments = parser.parse_args()
    settings = Settings()
    try:
        if arguments.action == "check":
            with tempfile.TemporaryDirectory() as folder:
                fresh = Settings(database_url=f"sqlite:///{Path(folder) / 'check.db'}")
                upgrade(fresh)
                check(fresh)
        elif arguments.action == "current":
            sys.stdout.write(f"{current(settings)}\n")
        elif arguments.action == "downgrade":
            downgrade(settings, arguments.revision or "base")
        else:
            upgrade(settings, arguments.revision or "head")
    except CommandError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
