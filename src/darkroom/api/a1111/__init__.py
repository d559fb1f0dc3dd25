"""A1111's API as data: what sd-server and the manager's gateway share. Knows no HTTP and no torch."""
