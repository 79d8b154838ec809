"""Kubeconfigs as data, and what kubectl and flargo make of each: which server hears from whom.

``rows.yaml`` holds the kubeconfigs, ``recorded.json`` what kubectl did with them. The command
``python -m tests.harness.kubeconfigs`` runs the kubectl in PATH on all rows and records that anew.
"""
