"""A page on this computer for people without a terminal: scans in by drag and drop, results and reports out.

The process that serves the page never loads a voxel: each job is done by a process of its own, and everything worth
keeping lies in a folder.
"""
