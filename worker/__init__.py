"""caspen-sync: carries committed changes from a Postgres outbox to the Caspen API, and the answers back."""

__version__ = "0.1.0"
