"""A form starts a job, a page shows its progress, and the visitor downloads the CSV file that the job wrote."""

import csv
import random
import time

from django.conf import settings
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse

from backjob import Status
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
    file = _file(jobs.job_id)
    unfinished = file.with_suffix(".part")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerow(["order", "amount"])
            for order in jobs.track(range(1, rows + 1), "Exporting"):
                writer.writerow([order, f"{random.uniform(1, 500):.2f}"])
                time.sleep(settings.SECONDS_A_ROW)
        unfinished.rename(file)
    finally:
        unfinished.unlink(missing_ok=True)  # it still exists if the job was cancelled
    jobs.finish("Your report is ready", result={"href": reverse("download")})
    return HttpResponse()


def download(request):
    """Send the visitor's report, if it is complete."""
    job_id = request.session.get("report")
    if job_id is None or not jobs.exists(job_id) or jobs.status(job_id).status is not Status.COMPLETED:
        raise Http404
    return FileResponse(_file(job_id).open("rb"), as_attachment=True, filename="report.csv")


def _file(job_id):
    return settings.REPORTS / f"{job_id}.csv"
