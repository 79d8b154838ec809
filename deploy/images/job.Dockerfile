# The least that a job runs in: Python with nvflare, and nothing of flargo's. Add what your jobs import.
# Everything is installed from wheels/, against the hashes of the lock, so the build needs no network: docs/install.md
# says how to fill that folder.
# The base is named by the digest of its index, which is for all platforms (here Python 3.11.17): a tag moves, and whoever
# moves it chooses what every job runs in. Security updates therefore come by a new digest only. To renew it:
#   docker buildx imagetools inspect docker.io/library/python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:2333bd330d12de02514770b3585cad313644316047cdee24a7acfdece6de6efb
FROM ${BASE}
RUN --mount=type=bind,target=/context \
    python3 -m pip install --no-cache-dir --root-user-action=ignore --no-index --find-links=/context/wheels \
        --no-deps --require-hashes --requirement=/context/job.txt
# For any user: only this one would have a home otherwise.
ENV HOME=/tmp
WORKDIR /tmp
USER 1000:1000
