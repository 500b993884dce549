# The image of the backends and clients of docker-compose.yml; on its own it runs the demo: docker run --rm -it IMAGE
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY lbkit lbkit
COPY resolvers resolvers
COPY balancers balancers
# The one package is ours, and pyproject.toml bounds what it brings.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[cli,consul]'

WORKDIR /
USER 65532:65532
EXPOSE 50051
CMD ["lbkit", "demo"]
