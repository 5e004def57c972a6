#!/usr/bin/env bash
# Makes .venv from scripts/requirements.txt: the Python of export_model.py and its tests. Prints the interpreter's path
# as the last line of stdout, progress on stderr. Does nothing when .venv already holds just these requirements.
#   SLUICE_PYTHON   the Python to build from (default python3; 3.11 or later, with the venv module)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
requirements=$root/scripts/requirements.txt
venv=$root/.venv
python=${SLUICE_PYTHON:-python3}

say() { echo "venv: $*" >&2; }

command -v "$python" >/dev/null ||
	{ say "$python is not installed; install Python 3.11 or later (Debian: apt-get install python3-venv)," \
		"or name one in SLUICE_PYTHON"; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
	{ say "$("$python" --version) is too old; 3.11 or later is needed (name another in SLUICE_PYTHON)"; exit 1; }

# The stamp is written last, so an interrupted install is made anew.
made_by=$("$python" -c 'import platform; print(platform.python_version(), platform.machine())')
stamp="$made_by $(sha256sum <"$requirements" | cut -d' ' -f1)"
if [[ -x $venv/bin/python && -f $venv/.sluice-requirements && $(<"$venv/.sluice-requirements") == "$stamp" ]]; then
	echo "$venv/bin/python"
	exit 0
fi
say "making $venv with $("$python" --version)"
rm -rf "$venv"
"$python" -m venv "$venv" || { say "the venv module is missing or broken; Debian: apt-get install python3-venv";
	rm -rf "$venv"; exit 1; }
say "installing $(grep -c '^[a-z]' "$requirements") pinned packages (about 130 MB to download)"
"$venv/bin/python" -m pip install --disable-pip-version-check --no-input --quiet --require-hashes --only-binary :all: \
	-r "$requirements" >&2
echo "$stamp" >"$venv/.sluice-requirements"
say "done: $(du -sm "$venv" | cut -f1) MB"
echo "$venv/bin/python"
