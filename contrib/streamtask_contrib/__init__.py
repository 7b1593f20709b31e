"""Workers and an API for speech, on the public names of `streamtask`; each subpackage needs an extra of its name."""
