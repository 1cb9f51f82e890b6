"""Event streams of jobs: one reader of the store for all streams of a process."""
