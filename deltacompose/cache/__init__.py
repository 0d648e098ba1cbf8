"""The user's cache folder: digests of large files, and facts that take long to compute, kept between processes."""
