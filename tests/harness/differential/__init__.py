"""flargo's step against the pod of the installed stock launcher, over a matrix of jobs and sites."""
