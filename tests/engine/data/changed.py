"""Reads tables one after the other and prints what became of each: `python -m tests.engine.data.changed FILE …`. A file may end the process."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from engine.contract.errors import EngineError
from engine.contract.metadata import DatasetMetadata
from engine.data.loading import read_stored
from engine.files.magic import check_file

for name in sys.argv[1:]:
    path, verdict = Path(name), ""
    try:
        with path.open("rb") as file:
            check_file(file, "parquet")
        with tempfile.TemporaryDirectory() as work:
            found = read_stored(path, "parquet", DatasetMetadata(), None, Path(work) / "work")
            verdict = "read" if found.splits["train"]["x"].dtype == np.float32 else "wrong"
    except EngineError as error:
        verdict = error.code
    sys.stdout.write(f"{verdict}\n")
    sys.stdout.flush()
