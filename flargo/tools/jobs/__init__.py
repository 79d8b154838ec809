"""What people ask of jobs on a cluster: which there are, how they are, why they ended, what they said, what is left."""
