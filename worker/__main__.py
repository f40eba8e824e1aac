"""`python -m worker` is `caspen-sync`."""

from worker.cli import command

if __name__ == "__main__":
    command()
