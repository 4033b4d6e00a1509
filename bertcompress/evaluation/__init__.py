"""What a compressed model is worth: task scores, loyalty to its teacher, size, speed and cost.

Import from the modules, e.g. `from bertcompress.evaluation.evaluate import evaluate`: a name re-exported here
would be hidden by the submodule of the same name.
"""
