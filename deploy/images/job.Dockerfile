# A minimal image for jobs: Python with nvflare, without flargo. Add the packages that your jobs import. All packages
# are installed from wheels/ and checked against the hashes of the lock file, so the build needs no network.
# docs/install.md says how to fill that folder. The base image is given by the digest of its index, which covers all
# platforms (here Python 3.11.17). With a tag, whoever moves the tag would choose what every job runs in. Security
# updates therefore need a new digest; this command prints it:
#   docker buildx imagetools inspect docker.io/library/python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
ARG BASE=docker.io/library/python:3.11-slim-bookworm@sha256:2333bd330d12de02514770b3585cad313644316047cdee24a7acfdece6de6efb
FROM ${BASE}
RUN --mount=type=bind,target=/context \
    python3 -m pip install --no-cache-dir --root-user-action=ignore --no-index --find-links=/context/wheels \
        --no-deps --require-hashes --requirement=/context/job.txt
# A home folder that every user id can write to.
ENV HOME=/tmp
WORKDIR /tmp
USER 1000:1000
