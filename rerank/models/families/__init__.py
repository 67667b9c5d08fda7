"""Model families: one file each, holding everything that a family's forward pass needs."""
