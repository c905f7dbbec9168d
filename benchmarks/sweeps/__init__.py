"""Sweeps: whole plans, killed, streamed, within a memory limit, on a device."""
