"""The commands of ``sparring``: one module each, with its flags (``Options``) and its work (``main``)."""
