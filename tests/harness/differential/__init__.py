"""Compare flargo's pods with those of nvflare's own (stock) launcher, over a matrix of jobs and sites."""
