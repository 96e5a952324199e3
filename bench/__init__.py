"""fastdl's benchmark: one file per family, run by ``fastdl bench``. See ``runner`` for how it measures."""
