"""Delivers jobs: the monitor's thread, the attempts it makes, and the writes it does for running jobs."""
