"""Many short jobs with random faults: what FLARE hears about each is checked against what really happened to it.

``plan`` makes a run from a seed, ``run`` carries it out, ``fault_injector`` injects its faults, ``observer`` records
what happens on the cluster, and ``gauge`` measures what the launchers hold afterwards. ``oracle`` says what FLARE may
hear about a job; ``attempts`` says it of one that is started again, and ``restarts`` of one whose parent restarts.
"""
