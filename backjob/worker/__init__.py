"""The receiving side: claims a job, runs its action, captures its output, and writes its end."""
