"""The form that starts an export."""

from django import forms


class ReportForm(forms.Form):
    """The number of rows."""

    rows = forms.IntegerField(min_value=1, max_value=100_000, initial=500, label="Rows")
