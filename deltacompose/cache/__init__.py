"""The user's cache folder: digests of large files, and facts that take long to compute, kept between processes.

`file_digests` has the digests, `remembered` the facts.
"""
