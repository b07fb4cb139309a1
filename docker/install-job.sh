#!/bin/sh
# The job image's whole installation: the extra `compress`. Usage: install-job.sh VENV
set -eu
venv="$1"
python3 -m venv "$venv"
"$venv/bin/pip" install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[compress]"
"$venv/bin/python" -c "import sparserve.models.pipeline.job"
