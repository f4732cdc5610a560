"""Documents to pretrain on: read or written, cut into pieces, and scored."""
