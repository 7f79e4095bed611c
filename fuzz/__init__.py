"""Fuzzing: octets that nobody would write, at everything that reads octets of others.

    make fuzz TARGET=bgp-update TIME=60     one target for so many seconds, guided by coverage
    make fuzz TARGET=all TIME=60            every target, one after the other
    python -m fuzz                          lists the targets
    python -m fuzz replay TARGET [FILE]     the inputs that are kept, or one that was found
    python -m fuzz keep TARGET              the few inputs that reach everything: fuzz/corpus/TARGET

A target (`targets.TARGETS`) is a function of octets that ends, or raises where a promise is broken:
each checks invariants, and that nothing else is raised is only the least of them. What must hold
stands at the head of the file where the target is: `bgp_codec`, `bgp_play`, `bfd_play`,
`cni_calls`, `texts`, `ipam`, `netlink`. Three kinds of structure help the fuzzer: targets of steps
read octets as decisions (`choices`), UPDATEs are changed part by part with their lengths put right
(`update_mutator`), texts have a dictionary of the words that our readers know (`words`).

The fuzzer is atheris (libFuzzer for Python), in the extra `fuzz`; it is not needed for anything
else. What it finds stays in `build/fuzz/TARGET`: inputs that reached something new, and `crash-*`
for each that broke a promise. A crash is mended together with a test, and its input is kept.

`fuzz/corpus` holds one small file for each target, an input a line in base64. The ordinary test run
replays them (`tests/fuzz`) and shows that they find faults that are planted. Figures and findings:
docs/fuzzing.md.
"""
