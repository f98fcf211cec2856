"""The command line: one small file a verb; results on stdout, progress and problems on stderr."""
