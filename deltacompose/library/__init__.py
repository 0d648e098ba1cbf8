"""Libraries of deltas: many trained deltas of one backbone, with their cards and features.

`library` is the library, `layout` its files, `card` the description of a delta, `features` its features; `from_store`
makes a library from a study. `recommend` ranks the deltas for a new task, with `library_evidence` on the library's own
tasks and `new_task` on the new one; `banked` scores many deltas on its few examples.
"""
