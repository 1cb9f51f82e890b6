"""A form starts a job, a page shows its progress, and the visitor downloads the CSV file that the job has made."""

import csv
import random
import tempfile
import time

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import redirect, render

from backjob.django import jobs
from report.forms import ReportForm


def home(request):
    """Show the form, and start the export."""
    form = ReportForm(request.POST or None)
    if form.is_valid():
        job_id = jobs.start("report-work", kwargs={"rows": form.cleaned_data["rows"]}, scope="report")
        request.session["report"] = job_id
        return redirect("report")
    return render(request, "report/home.html", {"form": form})


def report(request):
    """Show the progress of the visitor's report."""
    job_id = request.session.get("report")
    if job_id is None or not jobs.exists(job_id):
        return redirect("home")
    return render(request, "report/report.html", {"job_id": job_id})


@jobs.background_only
def work(request, rows):
    """Write the report, slowly."""
    with tempfile.NamedTemporaryFile("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["order", "amount"])
        for order in jobs.track(range(1, rows + 1), "Exporting"):
            writer.writerow([order, f"{random.uniform(1, 500):.2f}"])
            time.sleep(settings.SECONDS_A_ROW)
        file.flush()
        jobs.finish("Your report is ready", file=file.name, name="report.csv")
    return HttpResponse()
