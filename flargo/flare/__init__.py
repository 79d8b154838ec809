"""All contact with NVIDIA FLARE and with the disk."""
