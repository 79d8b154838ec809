"""What became of a job, without I/O: objects to views, views to a diagnosis, the life of a job."""
