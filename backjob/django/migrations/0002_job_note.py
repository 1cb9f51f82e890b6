from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("backjob", "0001_initial")]

    operations = [migrations.AddField("job", "note", models.TextField(null=True))]
