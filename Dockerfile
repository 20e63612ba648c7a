# The image for API processes and workers, and one with Flower beside it. Settings: docs/operating.md.
FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /opt/dropoff
# What Dropoff needs comes first, so that this layer is kept while only its own code changes.
COPY pyproject.toml constraints.txt ./
RUN mkdir app workers migrations && touch README.md LICENSE app/__init__.py workers/__init__.py migrations/__init__.py \
 && /opt/dropoff/bin/pip install --no-cache-dir --constraint constraints.txt .
COPY README.md LICENSE ./
COPY app app
COPY workers workers
COPY migrations migrations
RUN /opt/dropoff/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM build AS build-flower
RUN /opt/dropoff/bin/pip install --no-cache-dir --constraint constraints.txt flower

FROM python:3.11-slim AS base
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin dropoff
ENV PATH=/opt/dropoff/bin:$PATH PYTHONUNBUFFERED=1
USER 10001

FROM base AS flower
COPY --from=build-flower /opt/dropoff /opt/dropoff
EXPOSE 5555
CMD ["celery", "flower", "--port=5555"]

FROM base AS dropoff
COPY --from=build /opt/dropoff /opt/dropoff
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["dropoff", "healthcheck"]
CMD ["dropoff", "api", "--host", "0.0.0.0"]
