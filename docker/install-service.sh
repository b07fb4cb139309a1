#!/bin/sh
# The service image's whole installation: the base dependencies and nothing else. Usage: install-service.sh VENV
set -eu
venv="$1"
python3 -m venv "$venv"
"$venv/bin/pip" install --no-cache-dir --disable-pip-version-check -c constraints.txt .
"$venv/bin/python" -c "import sparserve.cli, sparserve.service.app"
