"""Others' objects, rewritten as ours: MetalLB's (`metallb`) and Calico's (`calico`). Pure.

Called by `samepath import`. Each takes documents and gives an `Imported` (`report`): our objects as
plain data, which our own parser has taken, and a line for everything that was carried over,
changed, or not.
"""
