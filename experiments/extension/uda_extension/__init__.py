"""An extension of uda: copy this folder, rename it, put your own in."""
