# modelfetch as an image: the init services of compose.yaml run it. Builds with the classic builder as well.
#
#   docker build -t modelfetch:0.1.0 .
#
# The base can be any image with Python 3.11 or newer and its venv module. To install packages from elsewhere, give pip's
# settings as build arguments: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST; or, without a network, PIP_NO_INDEX=1
# and PIP_FIND_LINKS=/src/wheels with the wheels in ./wheels. None of them are kept in the final image.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ARG HTTPS_PROXY
ARG HTTP_PROXY
ARG NO_PROXY
WORKDIR /src
COPY . .
# Compiled here, because the final file system may be read-only. pip is not needed afterwards.
RUN python3 -m venv /opt/modelfetch \
    && /opt/modelfetch/bin/python -m pip install --no-cache-dir --disable-pip-version-check '.[gpu]' \
    && /opt/modelfetch/bin/python -m pip uninstall --yes --quiet pip setuptools \
    && /opt/modelfetch/bin/python -m compileall -q /opt/modelfetch/lib

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="modelfetch" \
      org.opencontainers.image.description="Every AI model of your stack, fetched once, verified, and in place before a service starts." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/modelfetch /opt/modelfetch
# Runs as any user (`--user 1000:1000`): it writes nothing into the image and needs no home folder.
ENV PATH=/opt/modelfetch/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
WORKDIR /work
ENTRYPOINT ["modelfetch"]
CMD ["--help"]
