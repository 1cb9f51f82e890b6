"""gunicorn with threads: two processes of eight threads each."""

bind = "127.0.0.1:8000"
workers = 2
worker_class = "gthread"
threads = 8
timeout = 60  # ends a process that hangs; it does not limit requests of gthread
control_socket_disable = True  # its file would be in a directory that the user `shop` can't write to
graceful_timeout = 30  # for the requests that run at a TERM or HUP; longer than one item of your jobs in slices


def post_worker_init(worker):
    """Let jobs in slices hand over when gunicorn stops this worker."""
    from shop import jobs

    jobs.drain_on_signals()
