"""What jobs share: command line, settings, session, lake, model registry, errors."""
