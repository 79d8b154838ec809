"""The status of a job, without I/O: views of objects, their diagnosis, and the reconciler's state and rules."""
