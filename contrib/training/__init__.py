"""How the models in `streamtask_contrib.models` were made, and how to make them anew. No part of the package.

Run `python -m training --help` from `contrib/`; README.md says what the steps are and why they are what they are.
"""
