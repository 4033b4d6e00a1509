"""Training of every method: settings, objectives, one loop, exact resume.

Import from the modules themselves; this package imports nothing, so that `settings` stays free of torch.
"""
