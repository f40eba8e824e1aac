"""Two services at a steady load for as long as wanted: does anything grow?"""
