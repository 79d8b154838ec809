"""Many short jobs with faults at random: what FLARE hears is held against what truly happened.

``plan`` makes a run from a seed, ``run`` carries it out, ``witness`` sees what happens to it, ``truth`` says what FLARE
may hear of that, and ``gauge`` what the launcher holds of it afterwards.
"""
