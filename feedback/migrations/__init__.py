"""Schema migrations, applied by `feedback.database.migrate`."""
