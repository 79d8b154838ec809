# A FLARE parent, server or client: the job image with flargo and its command line.
ARG JOB=registry.example/flare-job:2.9
FROM ${JOB}
USER 0:0
RUN --mount=type=bind,target=/context \
    python3 -m pip install --no-cache-dir --root-user-action=ignore --no-index --find-links=/context/wheels \
        --no-deps --require-hashes --requirement=/context/parent.txt && \
    python3 -m pip install --no-cache-dir --root-user-action=ignore --no-index --no-deps /context/wheels/flargo-*.whl
USER 1000:1000
# FLARE's parents heed no SIGTERM, and as process 1 do not even end by it: a pod would use up its grace of 30 seconds, with
# its successor running beside it.
STOPSIGNAL SIGKILL
