"""Turn a launch into a plan, without I/O: settings, trust table, policy, names, pod, Workflow."""
