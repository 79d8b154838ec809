# The image of a FLARE parent (server or client): the job image with flargo and its command line.
ARG JOB=registry.example/flare-job:2.9
FROM ${JOB}
USER 0:0
RUN --mount=type=bind,target=/context \
    python3 -m pip install --no-cache-dir --root-user-action=ignore --no-index --find-links=/context/wheels \
        --no-deps --require-hashes --requirement=/context/parent.txt && \
    python3 -m pip install --no-cache-dir --root-user-action=ignore --no-index --no-deps /context/wheels/flargo-*.whl
USER 1000:1000
# FLARE's parents do not handle SIGTERM, and as process 1 they are not even ended by it: the pod would run for its whole
# grace period of 30 seconds, beside its successor.
STOPSIGNAL SIGKILL
