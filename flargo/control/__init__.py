"""The control loop, the only package with state: it submits plans, tracks jobs and performs their actions."""
