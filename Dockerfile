# uda with everything that its benchmarks need, with the tested versions; it runs the quickstart.
#   docker build --tag uda .                                      # with CUDA's libraries
#   docker build --tag uda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
#   docker run --rm --volume "$PWD:/work" --user "$(id -u):$(id -g)" uda
FROM python:3.12-slim-bookworm

# what opencv-python loads, and bare images do not have
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/uda
# before the sources, so that a change in these installs nothing anew
COPY constraints.txt ./
ARG TORCH_INDEX=https://pypi.org/simple
RUN pip install --no-cache-dir --constraint constraints.txt --index-url "$TORCH_INDEX" torch torchvision

COPY pyproject.toml setup.py README.md LICENSE ./
COPY uda uda
COPY benchmarks benchmarks
RUN pip install --no-cache-dir --constraint constraints.txt ".[slurm,search,gap]"

# any user may run it: what libraries keep for themselves goes where everybody may write
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /work
CMD ["uda", "bench", "quickstart", "--out", "runs", "--workers", "2"]
