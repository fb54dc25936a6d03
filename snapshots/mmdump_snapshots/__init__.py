"""Synthetic dumps: a model of the kernel's mm, and a writer that lays its state out as a given kernel would.

    model/      an executable account of the mechanisms: buddy allocator, page_ext, page_owner, stack depot,
                page pinner, mappings, migration, free page reporting
    kernels/    profiles: what the structures of each kernel look like
    writer/     from a machine's state to memory, a drgn Program, a vmcore with its debug info
    scenarios/  what happened on the machine

Model, writer and mmdump's decoders come from one hand: real kernels and plain drgn are the referees.
"""
