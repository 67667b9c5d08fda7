"""The commands of training: one module each, with its flags (``Options``) and its work (``main``)."""
