# One image for every role: `migrate`, `api`, `worker`, and `serve` (all in one container, with SQLite).
#
#   docker build --tag odeness:0.1.0 .
#
# torch's default build for Linux brings the CUDA libraries along: several gigabytes. For machines without a GPU,
# name a package index that has torch built for CPU only:
#
#   docker build --tag odeness:0.1.0 --build-arg TORCH_INDEX=https://... .

FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
# pip stays outside the environment, which is all that the image takes over.
RUN python -m venv --without-pip /opt/odeness

# The dependencies are a layer of their own: a change of the code does not download torch again.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['export'], *p['optional-dependencies']['telemetry'], sep='\n')" > requirements.txt
ARG TORCH_INDEX=""
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -n "$TORCH_INDEX" ]; then \
      pip --python /opt/odeness/bin/python install --no-deps --index-url "$TORCH_INDEX" --constraint constraints.txt torch; \
    fi \
 && pip --python /opt/odeness/bin/python install --requirement requirements.txt --constraint constraints.txt

COPY README.md LICENSE ./
COPY ode_core/ ode_core/
COPY store/ store/
COPY worker/ worker/
COPY api/ api/
COPY migrations/ migrations/
RUN --mount=type=cache,target=/root/.cache/pip \
    pip wheel --no-deps --wheel-dir /wheels . \
 && pip --python /opt/odeness/bin/python install --no-deps /wheels/odeness-*.whl \
 && pip --python /opt/odeness/bin/python check


FROM python:3.12-slim
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="odeness" \
      org.opencontainers.image.description="Trains, tests and serves neural ODEs" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"

# A fixed uid: files in volumes keep their owner from one image to the next.
RUN groupadd --system --gid 10001 odeness \
 && useradd --system --uid 10001 --gid 10001 --home-dir /var/lib/odeness --no-create-home --shell /usr/sbin/nologin odeness \
 && install --directory --owner=10001 --group=10001 --mode=0750 /var/lib/odeness \
 && python -m pip uninstall --yes pip
COPY --from=build /opt/odeness /opt/odeness
COPY deploy/worker_health.py /opt/odeness/share/odeness/worker_health.py

# Works with a read-only root: /tmp (a tmpfs) is all that api and worker write to; `serve` also needs a volume at
# /var/lib/odeness.
ENV PATH=/opt/odeness/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ODENESS_DATA_DIR=/var/lib/odeness
WORKDIR /var/lib/odeness
USER 10001:10001
EXPOSE 8000
# For the roles that serve HTTP. http.client rather than urllib, which would ask a proxy if one is set.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["odeness"]
CMD ["api", "--host", "0.0.0.0", "--port", "8000"]
