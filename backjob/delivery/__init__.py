"""The sending side: one monitor thread per process that delivers jobs and writes their pending reports."""
