#!/bin/sh
# All that needs a GPU, in pieces of under ten minutes that resume: see the head of pieces.py, and `run.sh --help`.
#   benchmarks/gpu/run.sh --root camvid=PATH --root kitti=PATH
set -e
cd "$(dirname "$0")/../.."
[ -x "${PYTHON:=.venv/bin/python}" ] || PYTHON=python3
exec env PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" benchmarks/gpu/pieces.py "$@"
