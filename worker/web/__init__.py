"""The service's own web address: whether it is alive, whether it is ready, and what it has counted.

It never holds up the work: what an asker can cost is bounded, whoever asks and however slowly.
"""
