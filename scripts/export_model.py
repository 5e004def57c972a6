#!/usr/bin/env python3
"""Exports a Hugging Face text or token classifier to a model directory of Sluice. See --help."""
import sys

if sys.version_info < (3, 11):
    sys.exit("export_model.py: needs Python 3.11 or later")
try:
    from sluice_export.cli import main
except ModuleNotFoundError as e:
    sys.exit(f"export_model.py: the Python module {e.name} is missing; make the environment (scripts/venv.sh) and run "
             f".venv/bin/python scripts/export_model.py")

if __name__ == "__main__":
    sys.exit(main())
