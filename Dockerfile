# One image for API processes and workers: `docker run dropoff dropoff worker`. Settings: docs/operating.md.
FROM python:3.11-slim AS build
WORKDIR /build
RUN python -m venv /opt/dropoff
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY app app
COPY workers workers
COPY migrations migrations
RUN /opt/dropoff/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin dropoff
COPY --from=build /opt/dropoff /opt/dropoff
ENV PATH=/opt/dropoff/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8080
CMD ["dropoff", "api", "--host", "0.0.0.0"]
