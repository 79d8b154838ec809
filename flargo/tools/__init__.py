"""What people use: the commands, the doctor, the demo, and how a startup kit is prepared."""
