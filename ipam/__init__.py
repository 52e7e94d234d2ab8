"""Which address is whose: a library for one node's address management, usable by itself.

    address    addresses, networks and prefixes, as integers
    ranges     where addresses may come from, and in which order; pure
    allocator  which address an owner gets; pure, over the `Store` interface
    errors     why it gets none
    releasing  addresses given back, and the `Store` interface
    store      that interface kept in a directory, in the format of the reference's host-local
    index      hints beside the directory, so that no change has to read it all
    recovery   when these don't hold, and what an earlier boot left
    census     how many addresses there are and how many of them are held
    nodecidr   which node has which part of a cluster's networks

Nothing here opens a netlink socket, reads the environment or knows what a pod is: an owner is a line of
text that the caller makes up and recognizes.

    >>> from ipam.allocator import allocate
    >>> from ipam.ranges import Range, RangeSet
    >>> from ipam.store import Directory
    >>> pods = RangeSet.of([Range.parse("10.1.0.0/24")])
    >>> with Directory("/run/example", "blue") as reservations:
    ...     [lease] = allocate(reservations, "somebody", [pods])
    >>> str(lease.address), str(lease.gateway)
    ('10.1.0.2/24', '10.1.0.1')
"""
