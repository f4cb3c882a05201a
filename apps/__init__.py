"""Command-line entry points: flags in, words out."""
