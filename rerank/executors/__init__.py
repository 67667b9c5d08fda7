"""Ways to run a model: on one device, on many, and whatever registers here."""
