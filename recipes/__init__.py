"""Methods, one a file: `Config`, whose fields are the flags, and `run(config) -> Report`."""
