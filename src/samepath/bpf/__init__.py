"""The BPF data plane: one program in the gateway's path, its loader and its maps."""
