"""The method inside the pipelines of others: MONAI, TorchIO and scikit-learn.

Each library has a module of its own here, which imports it; nothing else in the package does.
"""
