# The serving image: slim, non-root, no torch; runs with a read-only root file system.
# Build from the repository's root: docker build -f docker/service.Dockerfile -t sparserve-service .
# The sparse runtime is compiled here: the full image has a C++ compiler, the one that runs needs none. Where it does not
# compile there is no image.
FROM python:3.11 AS build
WORKDIR /src
COPY pyproject.toml setup.py MANIFEST.in constraints.txt README.md ./
COPY docker/install-service.sh docker/
COPY kernels kernels
COPY models models
COPY service service
COPY sparserve sparserve
RUN SPARSERVE_REQUIRE_LIBRARY=1 sh docker/install-service.sh /opt/venv

FROM python:3.11-slim
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SPARSERVE_STORE=/store \
    SPARSERVE_HOST=0.0.0.0 \
    SPARSERVE_PORT=8000
USER 10001:10001
EXPOSE 8000
# Healthy while it lives; readiness, which also asks for warm models, is /readyz. The check reads SPARSERVE_PORT: it cannot
# see a --port that is given as an argument.
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-m", "sparserve.service.healthcheck"]
# SIGTERM turns readiness off, lets running requests end, then exits with 0.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sparserve", "serve"]
