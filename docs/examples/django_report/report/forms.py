"""What the visitor may ask for."""

from django import forms


class ReportForm(forms.Form):
    """How long the report is to be."""

    rows = forms.IntegerField(min_value=1, max_value=100_000, initial=500, label="Rows")
