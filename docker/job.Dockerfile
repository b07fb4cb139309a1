# The job image: torch and all that makes a bundle; non-root, writes only to /store and /cache.
# Build from the repository's root: docker build -f docker/job.Dockerfile -t sparserve-job .
# A CPU-only torch: add --build-arg PIP_EXTRA_INDEX_URL=<the index of torch's CPU builds>.
# The sparse runtime is compiled here: the full image has a C++ compiler, the one that runs needs none. Where it does not
# compile there is no image.
FROM python:3.11 AS build
ARG PIP_EXTRA_INDEX_URL=""
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in constraints.txt README.md ./
COPY docker/install-job.sh docker/
COPY kernels kernels
COPY models models
COPY service service
COPY sparserve sparserve
RUN SPARSERVE_REQUIRE_LIBRARY=1 sh docker/install-job.sh /opt/venv

FROM python:3.11-slim
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache/huggingface \
    HOME=/cache \
    SPARSERVE_STORE=/store
# Whoever runs it: a named volume takes these modes over, a mounted folder keeps its own.
RUN install -d -m 1777 /store /cache
USER 10001:10001
VOLUME ["/store", "/cache"]
ENTRYPOINT ["sparserve"]
CMD ["--help"]
