"""What a job becomes, without I/O: settings, names, the pod, the Workflow, the plan."""
