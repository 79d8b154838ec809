"""What would keep a job from running here, found before one fails: facts gathered, then judged."""
