"""A Flask application with one job in slices and one plain job. The recipes of "In production" serve it."""

from __future__ import annotations

import time

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from backjob.flask import BackJob

app = Flask(__name__)
app.config.from_prefixed_env()  # FLASK_SECRET_KEY, FLASK_BACKJOB_STORE, …
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1)
jobs = BackJob(app)


@app.get("/")
def home():
    return (
        '<form method="post" action="/import?rows=1000"><button>Import</button></form>'
        '<form method="post" action="/report?seconds=20"><button>Report</button></form>'
    )


@app.post("/import")
def start_import():
    job_id = jobs.start("import_work", request.args, as_current_user=False, retries=3, queue="imports")
    return {"url": jobs.status_url(job_id)}, 202


@app.get("/import/work")
@jobs.background_only
def import_work():
    for row in jobs.track(range(int(request.args["rows"])), "Importing", resume="each"):
        time.sleep(0.05)  # stands for your work
        print("row", row)
    return jobs.finish("All rows are imported")


@app.post("/report")
def start_report():
    job_id = jobs.start("report_work", request.args, as_current_user=False)
    return {"url": jobs.status_url(job_id)}, 202


@app.get("/report/work")
@jobs.background_only
def report_work():
    for _ in jobs.track(range(10), "Reporting"):
        time.sleep(float(request.args["seconds"]) / 10)
    return jobs.finish("The report is ready")
