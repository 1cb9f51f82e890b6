"""HTTP as data: targets, addresses and origins, header arguments, and bytes on the wire. No socket is opened here."""
