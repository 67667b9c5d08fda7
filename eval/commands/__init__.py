"""The commands of evaluation: one module each, with its flags (``Options``) and its work (``main``)."""
