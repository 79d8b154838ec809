# The least that a job runs in: Python with nvflare, and nothing of flargo's. Add what your jobs import.
# Everything is installed from wheels/, against the hashes of the lock, so the build needs no network: docs/install.md
# says how to fill that folder.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE}
RUN --mount=type=bind,target=/context \
    python3 -m pip install --no-cache-dir --root-user-action=ignore --no-index --find-links=/context/wheels \
        --no-deps --require-hashes --requirement=/context/job.txt
# For any user: only this one would have a home otherwise.
ENV HOME=/tmp
WORKDIR /tmp
USER 1000:1000
