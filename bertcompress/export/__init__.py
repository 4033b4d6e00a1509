"""Models as files for other runtimes, and those files as models again."""
