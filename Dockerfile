# The environment of the lock, and the project in it: docker build -t dpib . && docker run --rm dpib
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /dpib
COPY requirements.lock ./
RUN python -m pip install --no-cache-dir uv && uv pip install --system --no-cache --require-hashes -r requirements.lock
COPY . .
ENV DPIB_HOME=/data MLFLOW_DISABLE_TELEMETRY=true
VOLUME /data
CMD ["mlflow", "run", ".", "--env-manager", "local"]
