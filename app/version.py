"""Which version of this server this is."""

VERSION = "1.0.0"
