"""Ways into meetings."""
